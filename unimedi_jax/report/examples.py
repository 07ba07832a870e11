"""The sections that show single cases: attention on X-rays, slices of CTs, retrieved reports."""

import html
from collections.abc import Sequence

from unimedi_jax.report import figures, markup
from unimedi_jax.report.content import AttentionExample, RetrievalExample, SliceExample


def attention(examples: Sequence[AttentionExample], *, show: bool) -> str:
    """Films beside their attention, one card each."""
    cards = [
        '<figure class="card"><div class="pair">'
        + markup.picture(figures.film(example.image, example.lesion), f"X-ray {index}")
        + markup.picture(
            figures.attention(example.image, example.scores, example.lesion),
            f"X-ray {index} with the attention laid over it",
        )
        + f"</div><figcaption><b>{markup.findings(example.findings)}</b>"
        + f"{markup.report(example.report, show)}</figcaption></figure>"
        for index, example in enumerate(examples, start=1)
    ]
    hint = (
        "Left the film, right the teacher's attention from CLS to each patch, mean over layers and "
        "heads, each picture scaled to its own range. Blue outline: the true lesion, where marked."
    )
    return f'<p class="hint">{hint}</p><div class="cards">{"".join(cards)}</div>' if cards else ""


def slices(examples: Sequence[SliceExample], *, show: bool) -> str:
    """Slice scores and the chosen slices of CTs, one card each."""
    cards = []
    for index, example in enumerate(examples, start=1):
        strip = "".join(
            '<figure class="slice">'
            + markup.picture(
                figures.axial_slice(example.volume[z], None if example.lesion is None else example.lesion[z]),
                f"CT {index}, slice {z}",
            )
            + f"<figcaption>slice {int(z)}</figcaption></figure>"
            for z in example.chosen_slices
        )
        cards.append(
            f'<figure class="card"><figcaption><b>CT {index}: '
            f"{markup.findings(example.findings)}</b>"
            f"{markup.report(example.report, show)}</figcaption>"
            + markup.picture(figures.slice_scores(example), f"Slice scores of CT {index}")
            + f'<div class="strip">{strip}</div></figure>'
        )
    hint = (
        "Score of each depth layer of the volume; blue bars are chosen, orange marks the slices "
        "that hold the lesion. Below, the chosen slices in the lung window, the patient's "
        "right on the left; the blue outline is the lesion."
    )
    return f'<p class="hint">{hint}</p><div class="cards">{"".join(cards)}</div>' if cards else ""


def retrieval(examples: Sequence[RetrievalExample], *, show: bool) -> str:
    """Images with their true report and the reports found for them."""
    cards = []
    for index, example in enumerate(examples, start=1):
        name = f"{html.escape(example.modality)} {index}"
        items = "".join(
            f'<li><span class="{"right" if found.correct else "wrong"}">'
            f"{'right' if found.correct else 'wrong'}</span> "
            f'<span class="similarity">{found.similarity:.3f}</span>'
            f"{markup.report(found.report, show)}</li>"
            for found in example.retrieved
        )
        cards.append(
            f'<figure class="card query">{markup.picture(figures.film(example.image), name)}'
            f"<figcaption><b>{name}: true report</b>{markup.report(example.true_report, show)}"
            f"<b>Found, best first</b><ol>{items}</ol></figcaption></figure>"
        )
    hint = "Right: the same report as the true one, word for word. Numbers: cosine similarity."
    return f'<p class="hint">{hint}</p><div class="cards">{"".join(cards)}</div>' if cards else ""
