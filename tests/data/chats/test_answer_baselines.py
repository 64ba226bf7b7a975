import datasets
import pytest

from vlmkit.data import answer_baselines, load_scenes
from vlmkit.metrics import vqa_accuracy

TRAIN = [
    {"color?": "red", "is it?": "yes"},
    {"color?": "blue", "is it?": "yes"},
    {"color?": "blue", "is it?": "no", "shape?": "star"},
]
TEST = [{"color?": "red", "is it?": "yes"}, {}, {"where?": "here", "shape?": "star"}]


def table(rows):
    columns = {"questions": [list(row) for row in rows], "answers": [list(row.values()) for row in rows]}
    text = datasets.List(datasets.Value("string"))
    return datasets.Dataset.from_dict(columns, datasets.Features(questions=text, answers=text))


def flat(column):
    return [text for row in column for text in row]


def test_predictions_are_flat_in_the_order_of_the_questions():
    assert answer_baselines(table(TRAIN), table(TEST)) == {
        "majority": ["yes"] * 4,  # as often as "blue", and met before it
        "per_question": ["blue", "yes", "yes", "star"],
    }


def test_the_answers_that_they_score():
    baselines = answer_baselines(table(TRAIN), table(TRAIN))
    answers = flat(table(TRAIN)["answers"])
    assert vqa_accuracy(baselines["majority"], answers)["accuracy"] == 2 / 7
    assert vqa_accuracy(baselines["per_question"], answers)["accuracy"] == 5 / 7


def test_answers_of_the_test_are_not_looked_at():
    other = [dict.fromkeys(row, "other") for row in TEST]
    assert answer_baselines(table(TRAIN), table(other)) == answer_baselines(table(TRAIN), table(TEST))


def test_images_are_not_read():
    with_images = table(TRAIN).add_column("image", ["absent.png"] * 3).cast_column("image", datasets.Image())
    assert answer_baselines(with_images, with_images) == answer_baselines(table(TRAIN), table(TRAIN))


def test_scenes():
    scenes = load_scenes(num_train=60, num_validation=1, num_test=10)
    baselines = answer_baselines(scenes["train"], scenes["test"])
    answers = flat(scenes["test"]["answers"])
    assert [len(answered) for answered in baselines.values()] == [50, 50] == [len(answers)] * 2
    on_numbers = vqa_accuracy(baselines["per_question"], answers)["accuracy/number"]
    assert 0 < on_numbers < 1  # two or three, whatever is in the picture


@pytest.mark.parametrize("broken", ["train", "test"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.remove_columns("answers"), "must have the columns questions and answers, but lacks answers"),
        (lambda rows: rows.remove_columns(["answers", "questions"]), "lacks answers and questions"),
        (lambda rows: rows.select([]), "must contain at least one question"),
        (lambda rows: rows.select([1]), "must contain at least one question"),
        (
            lambda rows: rows.map(lambda row: {"answers": row["answers"][:1]}),
            "row 0: each question must have one answer, but got 2 questions and 1 answers",
        ),
    ],
)
def test_errors_name_the_table_and_the_row(broken, change, message):
    tables = {"train": table(TEST), "test": table(TEST)}
    tables[broken] = change(tables[broken])
    with pytest.raises(ValueError, match=f"^`{broken}`.*{message}"):
        answer_baselines(**tables)
