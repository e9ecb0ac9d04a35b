"""Small random logs in which negatives are sampled, and their recipe without `negatives`."""

from hypothesis import strategies as st

RECIPE = {
    "log": {"user": "uid", "item": "iid", "time": "at"},
    "items": {"key": "iid"},
    "features": {
        "iid": {"side": "item", "type": "id"},
        "kind": {"side": "item", "type": "id"},
        "uid": {"side": "user", "type": "id"},
    },
    "histories": {"seen": {"features": ["iid"], "max_length": 2}},
    "tasks": {"click": "click", "order": "bought"},
    "split": {"by": "time", "valid_from": 20, "test_from": 25},
}
KINDS = {item: "even" if i % 2 == 0 else "odd" for i, item in enumerate("abcdefgh")}
ITEMS = [{"iid": item, "kind": kind} for item, kind in KINDS.items()]


def event(uid, iid, at, click, bought):
    return {"uid": uid, "iid": iid, "at": at, "click": click, "bought": bought}


EVENTS = st.lists(
    st.builds(
        event,
        st.integers(1, 4),
        st.sampled_from("abcdefg"),  # h is in the table of items only
        st.integers(0, 29),
        st.sampled_from([1, 1, 0, None]),
        st.sampled_from([1, 0, 0, None]),
    ),
    min_size=10,
    max_size=40,
)
ANCHORS = [
    event(5, "a", 1, 1, 0),
    event(6, "b", 2, 1, 0),
    event(5, "c", 3, 1, 1),
    event(5, "a", 21, 1, 0),
    event(6, "a", 27, 1, None),
]
