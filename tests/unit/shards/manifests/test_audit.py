"""The audit of a manifest."""

from shards.manifests.audit import LISTED, Audit


def test_number_of_examples_is_bounded() -> None:
    audit = Audit()
    for i in range(LISTED + 30):
        audit.skip("why", f"what {i}")
    assert audit.result()["skipped"] == {"why": LISTED + 30}
    assert len(audit.result()["examples"]["why"]) == LISTED
