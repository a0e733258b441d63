"""Why a name cannot be read where somebody wrote it, and what to write instead."""

_REASONS = {
    "item": "`item` exists only under for_each, in what the step does for each item",
    "index": "`index` exists only under for_each, in what the step does for each item",
    "iteration": "`iteration` exists only under repeat, in what the step does in each iteration",
    "previous": "`previous` exists only under repeat, in what the step does in each iteration",
    "output": "`output` exists only in repeat.until, where it is what the iteration gave",
    "secrets": "a secret may only go into url, query, headers, json and body of an http step, or tool settings",
    "steps": "an agent is shared by steps, so it cannot read their results",
}


def out_of_place(root: str, roots: frozenset[str], *, holder: str | None) -> tuple[str, str | None]:
    """Explains that a name exists, but not here.

    Args:
        root: The name.
        roots: The names that can be read here.
        holder: The step that is the group around the place, if there is one.

    Returns:
        What is wrong, and what would be right, if that can be told.
    """
    if roots == {"inputs"}:
        return f"`{root}` cannot be read here: before an execution begins there are only its inputs", None
    hint = None
    if root == "output":
        hint = "write previous" if "previous" in roots else "write steps.<id>.output"
    elif root == "steps":
        hint = "put it into the step's prompt"
    elif root != "secrets" and holder is not None:
        hint = f"pass it in by the input of {holder}"
    return _REASONS.get(root, f"`{root}` cannot be read here"), hint
