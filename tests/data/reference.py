"""What preparation must give, in plain Python: slow, obvious, one rule after the other.

Rows are dictionaries. SQL is not parsed: `CONDITIONS` says in Python what each expression of the
recipes means. What is drawn at random (`split.by: random`, `negatives.keep`) is not predicted but
taken from the prepared data, as a mapping of row numbers to splits.
"""

import math
from collections import Counter

SPLITS = ("train", "valid", "test")
CONDITIONS = {
    None: lambda row: True,
    "rating >= 4": lambda row: None if row["rating"] is None else row["rating"] >= 4,
    "done": lambda row: row["done"],
    "kind = 'view'": lambda row: None if row["kind"] is None else row["kind"] == "view",
    "kind <> 'order'": lambda row: None if row["kind"] is None else row["kind"] != "order",
}


def is_number(value):
    return value is not None and math.isfinite(value)


def as_ids(value):
    """A feature's ids in one row: those of a list; a null, a NaN or a blank is none of them."""
    ids = value if isinstance(value, list) else [value]
    ids = [
        each.strip() if isinstance(each, str) and isinstance(value, list) else each for each in ids
    ]
    ids = [None if isinstance(each, float) and math.isnan(each) else each for each in ids]
    return [
        each for each in ids if each is not None and not (each == "" and isinstance(value, list))
    ]


class Reference:
    """The data set of a recipe (its settings as a dictionary) over rows of a log and two tables.

    Args:
        drawn: row number -> split, for those rows that the engine draws; None where it draws none.
    """

    def __init__(self, settings, log, users, items, drawn=None):
        self.settings, self.log, self.drawn = settings, log, drawn
        self.tables = {
            "user": {row["u"]: row for row in users or ()},
            "item": {row["i"]: row for row in items or ()},
        }
        self.columns = {
            "user": set(users[0]) if users else set(),
            "item": set(items[0]) if items else set(),
        }
        self.has_event_tasks = any("event" in task for task in settings["tasks"].values())
        self._choose_rows()
        self._fit()

    # Which rows are examples, and of which split

    def _choose_rows(self):
        """Rows without user, item or time are nothing; those that are no example are events."""
        self.dropped, self.events, examples = Counter(), [], []
        for number, row in enumerate(self.log):
            missing = next((n for n in ("u", "i", "t") if row[n] is None or row[n] != row[n]), None)
            if missing is not None:
                self.dropped[{"u": "no user", "i": "no item", "t": "no time"}[missing]] += 1
                continue
            self.events.append(number)
            if CONDITIONS[self.settings["log"].get("examples")](row) is not True:
                self.dropped["not an example"] += 1
            elif not self.has_event_tasks and not any(self._known(x) for x in self._own(row)):
                self.dropped["no label"] += 1
            else:
                examples.append(number)
        self.examples, self.split = examples, self._split(examples)
        self.labels = {number: self._labels(number) for number in self.split}
        for number in list(self.split):
            if not any(self._known(label) for label in self.labels[number]):
                self.dropped["outcome not known yet"] += 1
                del self.split[number]
        keep = self.settings.get("negatives", {}).get("keep")
        if keep is not None and self.drawn is not None:
            for number in [n for n in self.split if n not in self.drawn]:
                assert self.split[number] == "train"
                assert 1.0 not in self.labels[number]
                self.dropped["negative not kept"] += 1
                del self.split[number]

    @staticmethod
    def _known(label):
        return label is not None

    def _own(self, row):
        """Labels that the row itself holds."""
        for task in self.settings["tasks"].values():
            value = None if isinstance(task, dict) else CONDITIONS[task](row)
            yield None if value is None else float(value)

    def _split(self, examples):
        split, rows = self.settings["split"], self.log
        if split["by"] == "files":
            return {n: rows[n]["file"] for n in examples}
        if split["by"] == "random":
            return {n: self.drawn.get(n, "train") for n in examples}  # the missing: not kept
        if split["by"] == "last":
            found = {}
            for n in examples:
                mine = [m for m in examples if rows[m]["u"] == rows[n]["u"]]
                later = {rows[m]["t"] for m in mine if rows[m]["t"] > rows[n]["t"]}
                is_test = len(later) < split["test"]
                is_valid = len(later) < split["test"] + split["valid"]
                found[n] = "test" if is_test else "valid" if is_valid else "train"
            return found
        if "valid" in split:
            times = sorted(rows[n]["t"] for n in examples)
            shares = (split["valid"] + split["test"], split["test"])
            places = [min(len(times) - round(len(times) * x), len(times) - 1) for x in shares]
            valid_from, test_from = (times[place] for place in places) if times else (0, 0)
        else:
            valid_from, test_from = split["valid_from"], split["test_from"]
        return {
            n: SPLITS[(rows[n]["t"] >= valid_from) + (rows[n]["t"] >= test_from)]
            if test_from >= valid_from
            else "test"
            for n in examples
        }

    def begins(self, split, user):
        """The first time of a split; of this user's examples where each user is split alone."""
        alone = self.settings["split"]["by"] == "last"
        times = [
            self.log[n]["t"]
            for n, each in self.split.items()
            if each == split and (not alone or self.log[n]["u"] == user)
        ]
        return min(times, default=None)

    # Labels

    def _labels(self, number):
        row, split = self.log[number], self.split[number]
        labels = list(self._own(row))
        for place, task in enumerate(self.settings["tasks"].values()):
            if isinstance(task, dict):
                labels[place] = self._outcome(row, split, task["event"], row["t"] + task["within"])
        return labels

    def _outcome(self, row, split, event, until):
        """Whether the event followed; unknown where that isn't over before the next split."""
        following = {"train": "valid", "valid": "test"}.get(split)
        next_one = following and self.begins(following, row["u"])
        last = max(self.log[n]["t"] for n in self.events)
        if until >= next_one if next_one is not None else until > last:
            return None
        same = [self.log[n] for n in self.events]
        same = [e for e in same if (e["u"], e["i"], e["kind"]) == (row["u"], row["i"], event)]
        return float(any(row["t"] <= e["t"] <= until for e in same))

    # What is fitted

    def _fitted_on(self):
        """The training examples, and events before validation begins that enter a history."""
        train = [n for n, split in self.split.items() if split == "train"]
        if not self.settings["histories"] or self.settings["split"]["by"] not in ("time", "last"):
            return train
        steps = []
        for n in self.events:
            begins = self.begins("valid", self.log[n]["u"])
            if n not in self.split and begins is not None and self.log[n]["t"] < begins:
                enters = [h.get("where") for h in self.settings["histories"].values()]
                if any(CONDITIONS[where](self.log[n]) for where in enters):
                    steps.append(n)
        return train + steps

    def raw(self, name, row):
        """The value of a feature for a row: its side's own table first, then the log."""
        feature = self.settings["features"][name]
        column, side = feature.get("column", name), feature["side"]
        if column in self.columns.get(side, ()):
            entity = row[side[0]]
            if column == side[0]:
                return entity
            return self.tables[side].get(entity, {}).get(column)
        return row[column]

    def _fit(self):
        features, fitted_on = self.settings["features"], [self.log[n] for n in self._fitted_on()]
        counts, self.statistics = {}, {}
        for name, feature in features.items():
            values = [self.raw(name, row) for row in fitted_on]
            if feature["type"] in ("id", "ids"):
                space = counts.setdefault(feature.get("space", name), Counter())
                space.update(each for value in values for each in as_ids(value))
            elif feature["type"] == "number":
                numbers = [float(value) for value in values if is_number(value)]
                mean = math.fsum(numbers) / len(numbers) if numbers else 0.0
                spread = [(number - mean) ** 2 for number in numbers]
                std = math.sqrt(math.fsum(spread) / len(numbers)) if numbers else 0.0
                self.statistics[name] = (mean, std if std > 1e-12 * abs(mean) else 1.0)
        self.vocabulary = {}
        for space, count in counts.items():
            sharing = [f for n, f in features.items() if f.get("space", n) == space]
            least = max(f.get("min_count", 1) for f in sharing)
            most = min(f.get("max_size", math.inf) for f in sharing)
            known = sorted((-n, value) for value, n in count.items() if n >= least)
            self.vocabulary[space] = [value for _, value in known[: min(most, len(known))]]

    # What the model reads

    def value(self, name, row):
        """A feature as the model reads it: a known id or None, a standardised number or None."""
        feature, raw = self.settings["features"][name], self.raw(name, row)
        if feature["type"] == "number":
            mean, std = self.statistics[name]
            return (float(raw) - mean) / std if is_number(raw) else None
        if feature["type"] == "vector":
            return [0.0, 0.0] if raw is None else raw
        known = self.vocabulary[feature.get("space", name)]
        ids = [each if each in known else None for each in as_ids(raw)]
        return ids if feature["type"] == "ids" else next(iter(ids), None)

    def history(self, name, user, time):
        """The user's last events strictly before, oldest first; not older than the age."""
        history = self.settings["histories"][name]
        oldest = time - history["max_age"] if "max_age" in history else -math.inf
        past = [
            self.log[n]
            for n in self.events
            if self.log[n]["u"] == user
            and oldest <= self.log[n]["t"] < time
            and CONDITIONS[history.get("where")](self.log[n])
        ]
        past = sorted(past, key=lambda e: (e["t"], e["i"]))[-history["max_length"] :]
        return [(e["t"], e["i"], *(self.value(f, e) for f in history["features"])) for e in past]

    def entering(self, history):
        """The events that may be steps of a history."""
        where = CONDITIONS[history.get("where")]
        return [n for n in self.kept if where(self.log[n])]

    @property
    def kept(self):
        """The rows that are kept: examples, and events where anything has use for them."""
        sampled = {"per_positive", "evaluation"} & set(self.settings.get("negatives", {}))
        if self.settings["histories"] or self.has_event_tasks or sampled:
            return self.events
        return self.examples

    def met(self, user, time):
        """The items that a sampled negative must not be."""
        ever = self.settings["negatives"].get("exclude", "ever") == "ever"
        mine = [self.log[n] for n in self.events if self.log[n]["u"] == user]
        return {e["i"] for e in mine if ever or e["t"] <= time}

    def pool(self):
        """The items that may be sampled: those of training rows, of positives for popularity."""
        train = [n for n, split in self.split.items() if split == "train"]
        if self.settings["negatives"].get("by") != "uniform":
            train = [n for n in train if 1.0 in self.labels[n]]
        return {self.log[n]["i"] for n in train}
