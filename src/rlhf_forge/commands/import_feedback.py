"""``import-feedback``: ratings that Open WebUI exported, into a database of votes."""

from pathlib import Path


def import_feedback(path: Path, db: Path) -> int:
    """Add the ratings of an Open WebUI export to a database; what is there already is not doubled.

    Args:
        path: The JSON file that Open WebUI's evaluations page exports.
        db: Of serve --feedback; made if it is not there.
    """
    from rlhf_forge.data.files import read_file
    from rlhf_forge.serve.feedback.open_webui import read_feedback
    from rlhf_forge.serve.feedback.store import FeedbackStore

    votes, unused = read_feedback(list(read_file(path)))
    store = FeedbackStore(db)
    new = [store.add(vote)[1] for vote in votes]
    kinds = [vote.kind for vote, is_new in zip(votes, new, strict=True) if is_new]
    print(f"{kinds.count('comparison')} comparisons and {kinds.count('thumb')} thumbs in {db}")
    if known := len(new) - sum(new):
        print(f"{known} were there already")
    for reason, count in sorted(unused.items()):
        print(f"{count} not used: {reason}")
    return 0
