"""The tools that every agent runner has, by name.

Any other name is that of a function which the operator has registered, so it is only known where it runs. The words
before the dot of these names are theirs, however: nobody's function is called `http.gte`.
"""

TOOLS = ("http.get", "http.request", "web.scrape", "web.search", "python.sandbox", "human.ask")
NAMESPACES = frozenset(name.partition(".")[0] + "." for name in TOOLS)


def is_misspelt(name: str) -> bool:
    """Tells whether a name can only be meant for one of `TOOLS`, and is none of them."""
    return name not in TOOLS and name[: name.find(".") + 1] in NAMESPACES
