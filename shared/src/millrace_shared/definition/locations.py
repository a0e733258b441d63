"""Places in a document, as people write them: `steps.load.needs[0]`, `inputs["first name"]`."""

import re

import msgspec

Location = tuple[str | int, ...]
"""Keys and indexes from the root of the document."""

Position = tuple[int, int]
"""Line and column in the text, both from 1."""

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")
KEY_CHARS_SHOWN_MAX = 64


def spell_location(location: Location) -> str:
    """Returns a location as text; the root is empty."""
    text = ""
    for key in location:
        if isinstance(key, int):
            text += f"[{key}]"
        elif _PLAIN.fullmatch(key):
            text += f".{key}" if text else key
        else:
            shown = key[:KEY_CHARS_SHOWN_MAX].encode(errors="replace").decode()
            text += f"[{msgspec.json.encode(shown).decode()}]"
    return text
