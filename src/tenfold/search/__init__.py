"""Budget, candidates, frontier, and the search for a recipe."""

from tenfold.search.budget import Budget
from tenfold.search.frontier import Best, Frontier
from tenfold.search.point import Point
from tenfold.search.shrinking import shrink

__all__ = ["Best", "Budget", "Frontier", "Point", "shrink"]
