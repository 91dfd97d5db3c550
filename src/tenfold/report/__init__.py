"""Reports and plots, drawn from plain data."""

from tenfold.report.blame_map import (
    blame_table,
    blame_tables,
    change_table,
    worst_tables,
    write_blame_map,
)
from tenfold.report.device_roofs import roofs_of, times_of
from tenfold.report.frontier_report import write_report
from tenfold.report.learning_curve import learning_curves
from tenfold.report.picture import static_plot
from tenfold.report.profile_report import write_profile
from tenfold.report.profile_view import LayerView, View, view
from tenfold.report.roofline_plot import require_matplotlib, roofline_plot
from tenfold.report.roofs import Roofs, Times
from tenfold.report.schema import SCHEMA, Budget, Layer, Layers, Phase, Point, Report
from tenfold.report.technique_page import technique_page
from tenfold.report.techniques import techniques_table
from tenfold.report.terminal import frontier_table
from tenfold.report.totals import profile_comparison

__all__ = [
    "SCHEMA",
    "Budget",
    "Layer",
    "LayerView",
    "Layers",
    "Phase",
    "Point",
    "Report",
    "Roofs",
    "Times",
    "View",
    "blame_table",
    "blame_tables",
    "change_table",
    "frontier_table",
    "learning_curves",
    "profile_comparison",
    "require_matplotlib",
    "roofline_plot",
    "roofs_of",
    "static_plot",
    "technique_page",
    "techniques_table",
    "times_of",
    "view",
    "worst_tables",
    "write_blame_map",
    "write_profile",
    "write_report",
]
