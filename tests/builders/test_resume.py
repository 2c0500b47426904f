"""Tests that a stopped preparation resumes, and never reads incomplete pieces."""

import pytest

from tfds_builders import resume


def doubling(calls):
    def prepare(items):
        for item in items:
            calls.append(item)
            yield 2 * item

    return prepare


def test_results_come_in_order_and_are_kept(tmp_path):
    calls = []
    assert list(resume.stream(range(10), doubling(calls), tmp_path / "w", piece=4)) == [2 * k for k in range(10)]
    assert list(resume.stream(range(10), doubling(calls), tmp_path / "w", piece=4)) == [2 * k for k in range(10)]
    assert calls == list(range(10))


@pytest.mark.parametrize("stop", [1, 4, 5, 9])
def test_a_stopped_preparation_resumes_with_the_missing_pieces(tmp_path, stop):
    def failing(items):
        for item in items:
            if item == stop:
                raise KeyboardInterrupt
            yield 2 * item

    with pytest.raises(KeyboardInterrupt):
        list(resume.stream(range(10), failing, tmp_path, piece=4))
    calls = []
    assert list(resume.stream(range(10), doubling(calls), tmp_path, piece=4)) == [2 * k for k in range(10)]
    assert calls == list(range(stop // 4 * 4, 10))


def test_a_damaged_piece_is_made_again(tmp_path):
    list(resume.stream(range(10), doubling([]), tmp_path, piece=4))
    damaged = sorted(tmp_path.iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:-3])
    calls = []
    assert list(resume.stream(range(10), doubling(calls), tmp_path, piece=4)) == [2 * k for k in range(10)]
    assert calls == [4, 5, 6, 7]


def test_threads_keep_the_order_and_propagate_errors():
    assert list(resume.in_threads(lambda k: k * k, range(50), 3)) == [k * k for k in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(resume.in_threads(lambda k: 1 // k, [1, 0, 2], 2))


def test_closing_a_stream_closes_its_generator(tmp_path):
    closed = []

    def prepare(items):
        try:
            yield from items
        finally:
            closed.append(True)

    stream = resume.stream(range(10), prepare, tmp_path, piece=2)
    next(stream)
    stream.close()
    assert closed == [True]


def test_fingerprints_differ_if_facts_differ():
    assert resume.fingerprint("a", 1) == resume.fingerprint("a", 1) != resume.fingerprint("a", 2)
