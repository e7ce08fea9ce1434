"""Damage to files: a changed byte, or a missing end."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

ANYWHERE = st.fixed_dictionaries({"place": st.floats(0, 0.999), "value": st.integers(0, 255), "cut": st.booleans()})
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1)
DRAWN = settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def damaged(content, place, value, cut):
    """The bytes with the byte at `place`, a share of their length, set to `value`, or cut off there."""
    position = int(place * len(content))
    return content[:position] if cut else content[:position] + bytes([value]) + content[position + 1 :]


def reads_or_refuses(open_source, *names):
    """True if a source opens and reads whole; if not, its error, on one line, must hold one of `names`."""
    try:
        source = open_source()
        x0, label = source.read(range(source.size))
    except (ValueError, FileNotFoundError) as error:
        assert any(name in str(error) for name in names) and "\n" not in str(error), error
        return False
    assert x0.shape == (source.size, *source.shape) and label.shape == (source.size,)
    return True
