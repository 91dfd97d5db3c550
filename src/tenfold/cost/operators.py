"""The operators that need no formula of their own, by what they do to each element. In-place forms follow.

Names are those of ATen, without the library. An operator that torch itself tags as pointwise or as a reduction
need not stand here; the lists hold those that older versions do not tag.
"""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# One operation for each output element, whatever the function.
POINTWISE = _names(
    """
    add sub mul div rsub pow exp log sqrt rsqrt sigmoid tanh relu gelu silu hardtanh hardswish hardsigmoid mish
    leaky_relu elu celu selu softplus softshrink hardshrink prelu _prelu_kernel threshold clamp where masked_fill
    lerp addcmul addcdiv rrelu_with_noise log_sigmoid_forward logical_and logical_or logical_not bitwise_and
    bitwise_or bitwise_not bitwise_xor __and__ __or__ __xor__ native_dropout complex polar
    fake_quantize_per_tensor_affine_cachemask fake_quantize_per_channel_affine_cachemask
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams floor_divide abs eq ne lt le gt ge copysign
    heaviside xlogy _add_relu
    """
)

# The same cost, but an output element depends on more than one element of an input.
PER_OUTPUT = _names(
    """
    glu isin bucketize searchsorted addr ger outer cross linalg_cross col2im scatter_add index_add scatter_reduce
    index_reduce _thnn_fused_lstm_cell _thnn_fused_gru_cell hann_window hamming_window blackman_window
    bartlett_window kaiser_window affine_grid_generator
    """
)

# Operations for each output element: interpolation weighs 2, 4, 8 or 16 neighbours.
INTERPOLATION = {
    "upsample_linear1d": 3,
    "upsample_bilinear2d": 7,
    "_upsample_bilinear2d_aa": 7,
    "grid_sampler_2d": 7,
    "upsample_trilinear3d": 15,
    "grid_sampler_3d": 15,
    "upsample_bicubic2d": 31,
    "_upsample_bicubic2d_aa": 31,
}

# One operation for each input element.
REDUCTIONS = _names(
    """
    sum mean amax amin aminmax max min argmax argmin any all prod nansum count_nonzero median nanmedian mode
    _aminmax logsumexp cumsum cumprod cummax cummin _cummax_helper _cummin_helper logcumsumexp trace bincount histc
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d adaptive_avg_pool2d
    """
)

# More than one operation for each input element.
SOFTMAX = 5  # maximum, subtraction, exponential, sum, division
FULL_NORM = 8  # mean 1, centred squares 3, normalise 2, scale and shift 2
PER_INPUT = {
    **dict.fromkeys(_names("linalg_vector_norm norm nll_loss_forward nll_loss2d_forward"), 2),
    **dict.fromkeys(
        _names(
            """
            mse_loss smooth_l1_loss huber_loss soft_margin_loss binary_cross_entropy
            binary_cross_entropy_with_logits dist
            """
        ),
        3,
    ),
    **dict.fromkeys(_names("var std var_mean std_mean _fused_rms_norm rms_norm"), 4),
    **dict.fromkeys(
        _names("_softmax _log_softmax softmax log_softmax _safe_softmax _masked_softmax"), SOFTMAX
    ),
    **dict.fromkeys(
        _names("native_layer_norm native_group_norm layer_norm group_norm _weight_norm_interface"), FULL_NORM
    ),
    # In eval mode batch norm is one scale and one shift.
    **dict.fromkeys(
        _names(
            """
            native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit
            _native_batch_norm_legit_no_training _batch_norm_no_update _batch_norm_with_update
            """
        ),
        2,
    ),
}

# n·log2 n comparisons for n elements along the last dimension.
SORTS = _names("sort argsort topk msort kthvalue unique_dim _unique2 _unique unique_consecutive")

# No arithmetic: these move, make, pad, name or check data.
MOVEMENT = _names(
    """
    clone copy _to_copy cat stack index index_select gather scatter take take_along_dim slice_scatter
    select_scatter index_put _unsafe_index _unsafe_index_put _index_put_impl masked_scatter masked_select
    index_copy index_fill constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d pad roll flip rot90 repeat repeat_interleave tril triu embedding one_hot
    arange zeros ones full empty empty_strided empty_like zeros_like ones_like full_like new_empty new_zeros
    new_ones new_full new_empty_strided eye linspace logspace scalar_tensor fill zero fill_diagonal rand randn
    randint rand_like randn_like randint_like randperm bernoulli normal uniform exponential multinomial
    pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle im2col unfold_copy lift_fresh lift
    lift_fresh_copy detach_copy resize resize_as set contiguous tril_indices triu_indices nonzero nonzero_static
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d max_unpool2d max_unpool3d diag_embed block_diag _unsafe_view _reshape_copy
    _reshape_alias _conj_physical conj_physical resolve_conj _local_scalar_dense equal is_same_size
    _pack_padded_sequence _assert_async _functional_assert_async _assert_tensor_metadata sym_size sym_numel
    sym_stride split_copy split_with_sizes_copy view_copy expand_copy permute_copy unsafe_split
    unsafe_split_with_sizes unsafe_chunk unbind_copy item random put _chunk_cat _stack range alias_copy
    as_strided_copy as_strided_scatter diagonal_copy diagonal_scatter narrow_copy select_copy slice_copy
    squeeze_copy unsqueeze_copy t_copy transpose_copy _reshape_alias_copy _conj_copy _neg_view_copy _lazy_clone
    empty_permuted
    """
)

# These read only the rows that they are asked for, and not the whole of their first argument.
GATHERS = _names(
    "embedding _embedding_bag _embedding_bag_forward_only index_select gather index take _unsafe_index"
)

# These set memory aside and write nothing.
ALLOCATIONS = _names("empty empty_permuted empty_strided empty_like new_empty new_empty_strided resize_ set_")

# These write their first argument without reading it.
OVERWRITES = _names("copy_ fill_ zero_ normal_ uniform_")
