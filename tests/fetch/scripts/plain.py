"""A loading script as there are many: an archive of recordings and a table, in two configurations."""

import csv
from pathlib import Path

import datasets

_BASE = "https://huggingface.co/datasets/alice/plain/resolve/main"


class Plain(datasets.GeneratorBasedBuilder):  # type: ignore[misc]
    BUILDER_CONFIGS = [datasets.BuilderConfig(name=name) for name in ("nb", "ha")]  # noqa: RUF012

    def _info(self):
        features = {
            "audio": datasets.Audio(sampling_rate=16000),
            "sentence": datasets.Value("string"),
            "who": datasets.ClassLabel(names=["Eva", "Adam"]),
        }
        return datasets.DatasetInfo(features=datasets.Features(features))

    def _split_generators(self, dl_manager):
        table = Path(dl_manager.download("tables"), f"{self.config.name}.csv")
        folder = dl_manager.download_and_extract(f"{_BASE}/the%20clips.zip?download=true")
        archive = dl_manager.download({"test": ["more.tar"]})["test"][0]
        return [
            datasets.SplitGenerator("train", {"table": table, "folder": folder}),
            datasets.SplitGenerator("test", {"table": table, "files": dl_manager.iter_archive(archive)}),
        ]

    def _generate_examples(self, table, folder=None, files=()):
        with open(table, encoding="utf-8") as handle:
            rows = {row["file"]: row for row in csv.DictReader(handle)}
        if folder is None:
            for path, opened in files:
                yield path, {"audio": {"path": path, "bytes": opened.read()}, **self._said(rows[path])}
        else:
            for path in sorted(Path(folder).iterdir()):
                yield path.name, {"audio": str(path), **self._said(rows[path.name])}

    def _said(self, row):
        return {"sentence": row["sentence"], "who": row["who"]}
