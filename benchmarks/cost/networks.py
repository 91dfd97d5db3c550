"""The networks that predictions are judged on. Calibration never sees them, nor anything made like them by hand."""

from __future__ import annotations

import warnings

from torch import nn

from tenfold.errors import NetworkError
from tenfold.models.named import named_network

CPU = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext50_32x4d",
    "seresnet50",
    "regnetx_004",
    "regnety_008",
    "densenet121",
    "vgg11",
    "mobilenetv2_050",
    "mobilenetv2_100",
    "mobilenetv2_140",
    "mobilenetv3_small_100",
    "mobilenetv3_large_100",
    "mobilenetv1_100",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_lite0",
    "mnasnet_100",
    "fbnetc_100",
    "ghostnet_100",
    "mixnet_s",
    "dla46_c",
    "hrnet_w18_small",
    "convnext_atto",
    "convnext_tiny",
    "vit_tiny_patch16_224",
    "vit_small_patch32_224",
    "vit_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mixer_s32_224",
    "resmlp_12_224",
    "poolformer_s12",
    "pit_ti_224",
    "levit_128s",
    "mobilevit_xxs",
    "edgenext_xx_small",
    "efficientformer_l1",
    "repvgg_a0",
    "mobileone_s0",
    "cspresnet50",
    "visformer_tiny",
    "tf_efficientnetv2_b0",
    "lcnet_050",
    "tinynet_a",
    "semnasnet_100",
    "spnasnet_100",
    "rexnet_100",
    "selecsls42",
    "ese_vovnet19b_dw",
    "gernet_s",
    "xcit_nano_12_p16_224",
    "gmlp_ti16_224",
    "mambaout_femto",
]

# The form of the model was chosen by looking at these; figures are given on the others too, which nobody looked at.
DEVELOPMENT = [
    "resnet50",
    "vgg11",
    "densenet121",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "efficientnet_b0",
    "ghostnet_100",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "levit_128s",
    "regnety_008",
    "poolformer_s12",
    "hrnet_w18_small",
]

GPU = [
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "seresnet50",
    "regnety_008",
    "densenet121",
    "vgg11",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "efficientnet_b0",
    "mnasnet_100",
    "ghostnet_100",
    "hrnet_w18_small",
    "convnext_tiny",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mixer_s32_224",
    "resmlp_12_224",
    "poolformer_s12",
    "repvgg_a0",
    "cspresnet50",
    "visformer_tiny",
    "gernet_s",
    "resnet34",
    "resnet101",
    "regnetx_016",
    "efficientnet_lite0",
    "tf_efficientnetv2_b0",
    "fbnetc_100",
    "mobilenetv1_100",
    "semnasnet_100",
    "rexnet_100",
    "selecsls42",
    "ese_vovnet19b_dw",
    "convnext_atto",
    "mobilevit_s",
    "levit_192",
    "pit_s_224",
    "deit_tiny_patch16_224",
    "mobileone_s0",
    "edgenext_small",
    "dla34",
    "efficientformer_l1",
    "lcnet_100",
    "gmlp_s16_224",
]

GPU_MEMORY = [
    "resnet50",
    "vgg11",
    "mobilenetv2_100",
    "efficientnet_b0",
    "densenet121",
    "regnety_008",
    "convnext_tiny",
    "vit_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "poolformer_s12",
]


def network(name: str) -> nn.Module:
    """A network of timm with random weights of seed 0, none of whose branches is multiplied by zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return named_network(f"timm:{name}?zero_init_last=false")
        except NetworkError:  # most families have no such option
            return named_network(f"timm:{name}")
