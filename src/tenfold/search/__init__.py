"""Budget, candidates, frontier, and the search for a recipe."""
