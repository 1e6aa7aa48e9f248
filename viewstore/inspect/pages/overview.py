"""Overview: what is in the store, and what became of it."""

from __future__ import annotations

from viewstore.inspect.pages.page import Facts, PageRequest, Tab
from viewstore.inspect.summary import label_counts, view_set_facts
from viewstore.store.verdict import verdict_of


def _facts(request: PageRequest) -> Facts:
    store = request.store
    sets = [] if request.view_set is None else [request.view_set]
    return {
        "samples": store.num_samples,
        "store_id": store.store_id,
        "labels": label_counts(store),
        "verdict": verdict_of(store, sets).to_json(),
        "view_sets": {each.name: view_set_facts(store, each) for each in sets},
    }


TAB = Tab(name="overview", title="Overview", facts=_facts)
