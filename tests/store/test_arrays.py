"""Arrays whose kind is known are written as pickle would write them."""

import copyreg
import pickle
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lokki.store.arrays import SHARED_BYTES, known_pieces
from lokki.store.codec import dumps, loads, pickle_pieces

TYPES = ["f8", "f4", "f2", ">f8", "i8", "q", "u1", "?", "c16", "g", "M8[s]", "m8[ms]", "S3", "U2", "i4,f8"]
LAYOUTS = ["plain", "fortran", "strided", "of another", "read-only", "swapped", "subclass", "described", "2 dimensions"]


class Named(np.ndarray[tuple[int], np.dtype[np.float64]]):
    pass


def array_of(kind: str, layout: str, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    content = (np.arange(size) % 120).astype("u1")
    type_ = np.dtype(kind)
    whole = np.resize(content, max(1, size // type_.itemsize) * 2 * type_.itemsize).view(type_)
    array = whole[: len(whole) // 2].copy()
    match layout:
        case "fortran":
            return np.asfortranarray(array[: len(array) // 4 * 4].reshape(-1, 4))
        case "strided":
            return whole[::2]
        case "of another":
            return whole[len(whole) // 2 :]
        case "read-only":
            array.flags.writeable = False
        case "swapped":
            return array.view(type_.newbyteorder())
        case "subclass":
            return array.view(Named)
        case "described":
            return array.view(np.dtype(type_, metadata={"unit": "g"})) if type_.names is None else array
        case "2 dimensions":
            return array[: len(array) // 4 * 4].reshape(4, -1)
    return array


@pytest.mark.filterwarnings("ignore:metadata on a dtype")
@given(
    kinds=st.lists(
        st.tuples(
            st.sampled_from(TYPES),
            st.sampled_from(LAYOUTS),
            st.sampled_from([100, SHARED_BYTES - 8, SHARED_BYTES, SHARED_BYTES + 48, 3 * SHARED_BYTES]),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_each_array_of_a_kind_has_the_pickle_of_the_first(kinds: list[tuple[str, str, int]]) -> None:
    for kind, layout, size in [*kinds, *kinds]:
        array = array_of(kind, layout, size)
        pieces = pickle_pieces(array)
        assert b"".join(pieces) == pickle.dumps(array, 5)


@pytest.mark.parametrize("kind", ["f8", "i4", "?", "c16"])
def test_the_second_large_array_of_numbers_is_pickled_by_the_first(kind: str) -> None:
    first, second = array_of(kind, "plain", SHARED_BYTES), array_of(kind, "of another", SHARED_BYTES)
    pickle_pieces(first)
    pieces = known_pieces(second)
    assert pieces is not None
    assert [piece.obj is second for piece in pieces].count(True) == 1


@pytest.fixture
def own_reduction() -> Iterator[None]:
    copyreg.pickle(np.ndarray, lambda array: (list, (array.tolist(),)))
    yield
    del copyreg.dispatch_table[np.ndarray]


def test_how_a_program_has_arrays_pickled_holds_for_known_ones(request: pytest.FixtureRequest) -> None:
    array = array_of("f8", "plain", SHARED_BYTES)
    assert isinstance(loads(dumps(array)), np.ndarray)
    request.getfixturevalue("own_reduction")
    assert loads(dumps(array)) == array.tolist()
