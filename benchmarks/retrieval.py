"""Lore search: does it find the right section of a tale, does it keep silent about other tales, how long does it take.

Run: python benchmarks/retrieval.py DATA_FOLDER [--embedder SPEC] [--passages N] [--queries N]

Recall is of FairytaleQA's validation part: 23 tales, 380 sections, 1025 questions; a question counts if one of its
sections is among the first four. "Kept" is the share of questions whose right section still passes a least score,
"foreign" the share of questions about another tale that get any passage at all: the two that MIN_SCORE weighs.
Times are of one search with 10,000 passages of up to 60 words (FairytaleQA and SQuAD 2.0, training parts) and their
questions; with no embedder, the vectors are random ones of 384 numbers: their time is right, what they find is not.
"""

import argparse
import platform
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.data.files import read_json_lines
from understudy.retrieval import ALL_KNOWING, Document, Embedder, Lore, Passage, build_lore, open_embedder
from understudy.retrieval.passages import split_text

WIDTH = 384
PIECE_WORDS = 60
LEAST_SCORES = (0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)


class RandomVectors:
    """An embedder whose vectors mean nothing."""

    name = "random"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Normal numbers [N, 384], the same for the same text."""
        seeds = [np.random.default_rng(list(text.encode()[:64])) for text in texts]
        return np.stack([seed.standard_normal(WIDTH, dtype=np.float32) for seed in seeds])


def tale_documents(tales: Sequence[dict[str, Any]]) -> list[Document]:
    """A document a tale, a passage a section, known to the one who is called like the tale."""

    def passages(tale: dict[str, Any]) -> Callable[[], list[Passage]]:
        name, sections = tale["story"], tale["sections"].items()
        known_to = frozenset([name.casefold()])
        return lambda: [Passage(id=f"{name}#{n}", title=name, text=text, known_to=known_to) for n, text in sections]

    return [Document(name=tale["story"], digest="1", read=passages(tale)) for tale in tales]


def show_recall(lore: Lore, tales: Sequence[dict[str, Any]]) -> None:
    """Print recall in the tale and among all tales, and what each least score keeps and lets through."""
    right_in: dict[str, list[int]] = {"the tale": [], "all tales": []}
    kept, foreign = [], []
    draw = random.Random(1)
    for tale in tales:
        others = [other["story"] for other in tales if other is not tale]
        for question in tale["qas"]:
            right = {f"{tale['story']}#{n}" for n in question["sections"]}
            for place, character in (("the tale", tale["story"]), ("all tales", ALL_KNOWING)):
                found = lore.search(question["question"], character=character, min_score=0)
                ranks = [rank for rank, one in enumerate(found, 1) if one.id in right]
                right_in[place].append(ranks[0] if ranks else 99)
                if place == "the tale":
                    kept.append(max((one.score for one in found if one.id in right), default=0.0))
            found = lore.search(question["question"], character=draw.choice(others), min_score=0)
            foreign.append(max((one.score for one in found), default=0.0))
    for place, ranks in right_in.items():
        at = {k: sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 4)}
        print(f"recall in {place}: @1 {at[1]:.3f}, @4 {at[4]:.3f}, {len(ranks)} questions")
    for least in LEAST_SCORES:
        shares = [sum(score >= least for score in scores) / len(scores) for scores in (kept, foreign)]
        print(f"least score {least:.2f}: kept {shares[0]:.3f}, foreign {shares[1]:.3f}")


def show_times(what: str, search: Callable[[str], object], questions: Sequence[str]) -> None:
    """Print median and 95th percentile, by the clock and by this process's own work."""
    wall, own = [], []
    for question in questions:
        began, worked = time.perf_counter(), time.process_time()
        search(question)
        wall.append(1e3 * (time.perf_counter() - began))
        own.append(1e3 * (time.process_time() - worked))
    figures = [f"median {statistics.median(t):.1f} ms, p95 {sorted(t)[int(0.95 * len(t))]:.1f} ms" for t in (wall, own)]
    print(f"{what}: by the clock {figures[0]}; own work {figures[1]}; {len(questions)} questions")


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--embedder", default="none", help="see `understudy lore build --embedder`")
    parser.add_argument("--passages", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=500)
    arguments = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    print(f"{time.strftime('%Y-%m-%d')}, commit {commit.stdout.strip()}, {platform.machine()}, {platform.platform()}")
    embedder = open_embedder(arguments.embedder)
    tales = list(read_json_lines(arguments.data / "eval" / "fairytaleqa_val.jsonl"))
    with tempfile.TemporaryDirectory() as folder:
        for one in [None, embedder] if embedder else [None]:
            path = Path(folder) / f"tales{one is None}.db"
            build_lore(path, tale_documents(tales), embedder=one)
            with Lore.open(path, embedder=one) as lore:
                print(f"-- {one.name if one else 'words alone'}")
                show_recall(lore, tales)
        many(Path(folder) / "many.db", arguments, embedder or RandomVectors())


def many(path: Path, arguments: argparse.Namespace, embedder: Embedder) -> None:
    """Build and time the large database."""
    tales = list(read_json_lines(arguments.data / "rag" / "fairytaleqa_train.jsonl"))
    articles = list(read_json_lines(arguments.data / "rag" / "squad2_train_articles.jsonl"))
    whole = [text for tale in tales for text in tale["sections"].values()] + [one["context"] for one in articles]
    texts = [piece for text in whole for _, piece in split_text(text, max_words=PIECE_WORDS)]
    questions = [question["question"] for one in [*tales, *articles] for question in one["qas"]]
    draw = random.Random(1)
    texts = draw.sample(texts, min(arguments.passages, len(texts)))
    asked = draw.sample(questions, min(arguments.queries, len(questions)))

    def document(number: int, text: str) -> Document:
        known_to = None if number % 2 else frozenset([f"reader {number % 10}"])
        passage = Passage(id=str(number), text=text, known_to=known_to)
        return Document(name=str(number), digest="1", read=lambda: [passage])

    began = time.perf_counter()
    build_lore(path, [document(number, text) for number, text in enumerate(texts)], embedder=embedder)
    print(f"-- {len(texts)} passages, built in {time.perf_counter() - began:.1f} s, {path.stat().st_size >> 20} MiB")
    with Lore.open(path) as lore:
        lore.search("warm", character=ALL_KNOWING)
        show_times("words", lambda question: lore.search(question, character=ALL_KNOWING), asked)
        show_times("words, in a scope", lambda question: lore.search(question, character="reader 4"), asked)
    with Lore.open(path, embedder=embedder) as lore:
        lore.search("warm", character=ALL_KNOWING)
        show_times("fused", lambda question: lore.search(question, character=ALL_KNOWING), asked)
        show_times("fused, in a scope", lambda question: lore.search(question, character="reader 4"), asked)


if __name__ == "__main__":
    main()
