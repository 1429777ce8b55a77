"""Which numbers a client may use, against a model that remembers every frame."""

from hypothesis import given
from hypothesis import strategies as st

from tests.support._probe import take_numbers

FITS, SKIPPED, FINISHED = range(3)
REMEMBERED = 64
# A stream, whether the frame is HEADERS, whether nothing follows it: mostly near the beginning, sometimes far on.
NUMBERS = st.one_of(st.integers(0, 40), st.integers(0, 400), st.integers((1 << 31) - 300, (1 << 31) - 1))
FRAMES = st.lists(st.tuples(NUMBERS, st.booleans(), st.booleans()), max_size=60)


@given(FRAMES)
def test_what_is_said_of_a_frame_follows_from_those_before_it(frames: list[tuple[int, bool, bool]]) -> None:
    opened: set[int] = set()
    finished: set[int] = set()
    expected = []
    for number, opens, finishes in frames:
        last = max(opened, default=-1)
        verdict = FITS
        if number % 2 and (number <= last or opens):
            opened |= {number} if number > last else set()
            is_known = number > last - 2 * REMEMBERED
            if is_known and number in finished:
                verdict = FINISHED
            elif is_known and number not in opened:
                verdict = SKIPPED
            elif is_known and finishes:
                finished.add(number)
        expected.append(verdict)
    assert take_numbers(frames) == expected
