"""Laws of the ledger: what is written is whole, what is read is checked, no id leaves the folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hand_made import MADE_BY, eval_record, frame, run_record

from bench.ground.config import UserError
from bench.ground.files import write_atomic
from bench.ground.provenance import provenance
from bench.ledger import errors, evals, runs
from bench.ledger.errors import ErrorRecord
from bench.ledger.folder import Results
from bench.ledger.histories import Epoch, HistoryRecord, read_history, write_history

RUN, EVAL = "at-dots-cnn-s0-12345678.best", "cw-n3-12345678"


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results")


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_run_comes_back_as_it_was(results: Results):
    record = run_record("mat-dots-cnn-s0-12345678.h2-last")
    path = runs.write_run(results, record)
    assert path == results.root / "runs" / "mat-dots-cnn-s0-12345678" / "h2-last.json"
    assert runs.read_run(results, record.run_id) == record
    assert runs.list_runs(results) == [record.run_id]


def test_an_eval_comes_back_as_it_was_from_one_file(results: Results):
    record = eval_record(RUN, EVAL, frame([True, False, True]))
    path = evals.write_eval(results, record)
    found = evals.read_eval(results, RUN, EVAL)
    assert found == record and found.eps == 8 / 255
    pd.testing.assert_frame_equal(found.images, record.images)
    assert files_in(results.root) == [path.name]


def test_a_history_comes_back_and_is_none_where_an_older_release_trained(results: Results):
    epochs = [Epoch(n, 1.0 / n, 0.1, [0.5, 0.6], [0.3, 0.4], [0.4, 0.5], 2.0) for n in (1, 2)]
    record = HistoryRecord("mat-dots-cnn-s0-12345678", epochs)
    assert read_history(results, record.training_id) is None
    path = write_history(results, record)
    assert read_history(results, record.training_id) == record and runs.list_runs(results) == []
    path.write_text(path.read_text().replace("0.4", "0.9", 1))
    with pytest.raises(UserError, match="SHA-256"):
        read_history(results, record.training_id)


@pytest.mark.parametrize("epochs", [[2], [1, 3], [2, 1]])
def test_a_history_of_other_epochs_than_1_2_3_is_refused(epochs: list[int]):
    with pytest.raises(ValueError, match="1, 2, 3"):
        HistoryRecord("x", [Epoch(n, 1.0, 0.1, [0.5], [0.5], [0.5], 1.0) for n in epochs])
    with pytest.raises(ValueError, match="same networks"):
        HistoryRecord("x", [Epoch(1, 1.0, 0.1, [0.5, 0.5], [0.5], [0.5], 1.0)])


def test_an_error_comes_back_for_a_training_and_for_a_cell(results: Results):
    for eval_id in (None, EVAL):
        record = ErrorRecord(RUN, eval_id, "out of memory", "trace", MADE_BY)
        errors.write_error(results, record)
        assert errors.read_error(results, RUN, eval_id) == record
        errors.clear_error(results, RUN, eval_id)
        assert errors.read_error(results, RUN, eval_id) is None
    assert runs.list_runs(results) == []


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".x", "a..b", "", "a b", "a\\b", "-x", "a\n", "/etc", "a."])
def test_no_id_leaves_the_folder(results: Results, name: str):
    doors = (results.plan, results.training, results.table, lambda n: results.eval(RUN, n))
    for door in (*doors, lambda n: results.run(f"{n}.best"), lambda n: results.eval(n, EVAL)):
        with pytest.raises(UserError):
            door(name)


def test_a_run_id_ends_in_a_checkpoint(results: Results):
    for name in ("at-dots", "at-dots.error", "at-dots.h-best", "best"):
        with pytest.raises(UserError, match="no run id"):
            results.run(name)


@pytest.mark.parametrize("keep", [0, 3, 100, -1, -20])
def test_a_truncated_eval_is_refused_in_a_sentence(results: Results, keep: int):
    path = evals.write_eval(results, eval_record(RUN, EVAL, frame([True, False, True])))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=rf"{EVAL}\.parquet: .*delete it and run again"):
        evals.read_eval(results, RUN, EVAL)


def test_a_column_whose_name_is_no_text_is_refused(results: Results):
    """Found by 10,000 damaged records: the name could not even be printed."""
    path = evals.write_eval(results, eval_record(RUN, EVAL, frame([True])))
    damaged = path.read_bytes().replace(b"label", b"\x80abel")
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=rf"{EVAL}\.parquet"):
        evals.read_eval(results, RUN, EVAL)


def test_a_table_without_our_metadata_is_refused(results: Results):
    path = evals.write_eval(results, eval_record(RUN, EVAL, frame([True])))
    pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)
    with pytest.raises(UserError, match="metadata"):
        evals.read_eval(results, RUN, EVAL)


def test_a_record_under_another_name_is_refused(results: Results):
    path = evals.write_eval(results, eval_record(RUN, EVAL, frame([True])))
    path.rename(path.with_name("other.parquet"))
    with pytest.raises(UserError, match="its eval_id is"):
        evals.read_eval(results, RUN, "other")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda r: r.pop("seed"), "lacks seed"),
        (lambda r: r.update(sead=1), "did you mean 'seed'"),
        (lambda r: r.update(seed="0"), "seed = '0'"),
        (lambda r: r.update(training_id="x"), "is not of training"),
        (lambda r: r["cost"].pop("seconds"), "'cost.seconds' is missing"),
    ],
)
def test_a_run_with_other_fields_is_refused(results: Results, edit, words: str):
    path = runs.write_run(results, run_record(RUN))
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        runs.read_run(results, RUN)
    assert words in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"robust": [True, True, False]},  # says robust where the prediction is wrong
        {"robust": [False, False, True]},  # says fooled where both predictions are right
        {"image": [0, 0, 1]},
        {"linf": [0.1, float("nan"), 0.1]},
        {"l2": [0.1, -1.0, 0.1]},
        {"label": ["3", "3", "3"]},
        {"label": [3.5, 3.0, 3.0]},
        {"extra": [1, 2, 3]},
    ],
)
def test_a_table_that_contradicts_itself_is_not_written(results: Results, change: dict):
    good = frame([True, False, True])
    evals.write_eval(results, eval_record(RUN, EVAL, good))
    with pytest.raises(UserError):
        evals.write_eval(results, eval_record(RUN, "cw-n3-00000000", good.assign(**change)))
    assert files_in(results.root) == [f"{EVAL}.parquet"], "nothing half-written stays"


def test_an_image_that_was_fooled_beyond_eps_only_is_robust(results: Results):
    """Of a minimal-norm attack; of a bounded one that row contradicts itself."""
    beyond = frame([False, True]).assign(robust=True, linf=[0.04, 0.0])
    evals.write_eval(results, replace(eval_record(RUN, EVAL, beyond), attack="ddn"))
    with pytest.raises(UserError, match="on 1 images the verdict contradicts"):
        evals.write_eval(results, replace(eval_record(RUN, EVAL, beyond.assign(robust=[False, True])), attack="ddn"))
    for name in ("cw", "pgd-100", "pgd-100-digits", "autoattack", "msd", "mine"):
        with pytest.raises(UserError, match=f"1 images that {name} fooled count as robust because they lie beyond"):
            evals.write_eval(results, replace(eval_record(RUN, EVAL, beyond), attack=name))


def test_a_contradiction_on_disk_is_refused(results: Results):
    path = evals.write_eval(results, eval_record(RUN, EVAL, frame([True, False])))
    table = pq.read_table(path)
    forged = table.to_pandas().assign(robust=True)
    pq.write_table(table.from_pandas(forged, table.schema, preserve_index=False), path)
    with pytest.raises(UserError, match="on 1 images the verdict contradicts"):
        evals.read_eval(results, RUN, EVAL)


def test_a_changed_distance_on_disk_is_refused(results: Results):
    """Nothing in the table contradicts it; only the SHA-256 tells."""
    path = evals.write_eval(results, eval_record(RUN, EVAL, frame([True, False])))
    table = pq.read_table(path)
    place = table.column_names.index("l2")
    pq.write_table(table.set_column(place, table.schema.field("l2"), pa.array([0.4, 0.5])), path)
    with pytest.raises(UserError, match="are not what was written"):
        evals.read_eval(results, RUN, EVAL)


def test_right_under_attack_but_wrong_without_it_is_not_robust(results: Results):
    table = frame([True, True], clean=[True, False])
    assert table["robust"].tolist() == [True, False]
    evals.write_eval(results, eval_record(RUN, EVAL, table))


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path):
    path = tmp_path / "record.json"
    path.write_text("old")

    def fill(file) -> None:
        file.write(b"half")
        raise RuntimeError("serialisation failed")

    with pytest.raises(RuntimeError):
        write_atomic(path, fill)
    assert path.read_text() == "old" and files_in(tmp_path) == ["record.json"]


def test_a_disk_that_refuses_is_a_sentence(tmp_path: Path):
    def full(file) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"cannot write .*x\.json: No space left"):
        write_atomic(tmp_path / "x.json", full)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        runs.write_run(Results(tmp_path / "file"), run_record(RUN))
    assert files_in(tmp_path) == ["file"]


def test_numbers_that_json_lacks_are_refused_on_writing(results: Results):
    with pytest.raises(UserError, match="validation"):
        runs.write_run(results, replace(run_record(RUN), validation={"loss": float("nan")}))
    assert files_in(results.root) == []


def test_provenance_tolerates_a_machine_without_git(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    made_by = provenance("cpu", 2)
    assert made_by.git_commit == "unknown" and not made_by.git_dirty
    assert "pandas" in made_by.packages and made_by.threads == 2
