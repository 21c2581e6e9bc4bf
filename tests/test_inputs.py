"""What the numerical functions are given by mistake: one line each, and no number."""

import warnings

import pytest

from tests.breaking.inputs import CALLS, CASES


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused_on_one_line():
    wrong = []
    for name, function in CASES:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = function()
        except (ValueError, TypeError, OSError) as error:
            if "\n" in str(error) or not str(error):
                wrong.append(f"{name}: {str(error)[:200]!r}")
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__} {str(error)[:100]!r}")
        else:
            wrong.append(f"{name}: accepted, {type(found).__name__}")
    assert not wrong, f"{len(wrong)} of {len(CASES)}\n" + "\n".join(wrong)
    assert len(CASES) > 500


@pytest.mark.parametrize("call", CALLS, ids=[c.name for c in CALLS])
def test_what_is_spoiled_there_is_right(call):
    call.function(**call.given)
