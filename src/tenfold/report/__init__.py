"""Reports and plots, drawn from plain data."""

from tenfold.report.blame_map import blame_table, change_table, write_blame_map
from tenfold.report.frontier_report import write_report
from tenfold.report.learning_curve import learning_curves
from tenfold.report.picture import static_plot
from tenfold.report.schema import SCHEMA, Budget, Layer, Layers, Phase, Point, Report
from tenfold.report.techniques import techniques_table
from tenfold.report.terminal import frontier_table

__all__ = [
    "SCHEMA",
    "Budget",
    "Layer",
    "Layers",
    "Phase",
    "Point",
    "Report",
    "blame_table",
    "change_table",
    "frontier_table",
    "learning_curves",
    "static_plot",
    "techniques_table",
    "write_blame_map",
    "write_report",
]
