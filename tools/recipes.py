"""A recipe from what a user gives for one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fxquant.recipe import Recipe

AnyRecipe = Recipe | Mapping[str, Any] | str | None


def as_recipe(recipe: AnyRecipe) -> Recipe:
    """A Recipe from what the user gave: a Recipe, plain data, a name, or "native" for the one that suits this CPU.

    "native-dynamic" is that one with ranges that are found at run time, "native-auto" with such where data say so.
    """
    if isinstance(recipe, str) and recipe in ("native", "native-dynamic", "native-auto"):
        from fxquant import targets

        suited = targets.get("native").recipe
        if recipe == "native":
            return Recipe.named(suited)
        return replace(Recipe.named(recipe.removeprefix("native-")), weight=Recipe.named(suited).weight)
    if isinstance(recipe, str):
        return Recipe.named(recipe)
    if recipe is None:
        return Recipe()
    return recipe if isinstance(recipe, Recipe) else Recipe.from_dict(recipe)
