"""Prompts: sentences that assert and deny a label, for zero-shot classification.

`of_label` is what a set without sentences of its own gets. TEMPLATES are the pairs of published systems: CT-CLIP's
(arXiv 2403.17834, its `scripts/zero_shot.py`) and CheXzero's (Nature BME 2022, its notebook `zero_shot`).
"""

Pair = dict[str, list[str]]  # {"positive": sentences that assert, "negative": sentences that deny}
TEMPLATES = {"ct_clip": ("{} is present.", "{} is not present."), "chexzero": ("{}", "no {}")}
# Labels that say that there is nothing: denied by naming an abnormality, since "no no finding" means nothing.
NORMAL = ("no finding", "no findings", "normal", "no abnormality", "healthy")
NORMAL_PAIR = {
    "positive": ["there is no abnormality", "the chest is normal", "normal examination"],
    "negative": ["there is an abnormality", "the chest is abnormal", "abnormal examination"],
}


def of_label(label: str) -> Pair:
    """Sentences that assert and deny a label; the two lists match one to one."""
    words = _words(label).lower()
    if words in NORMAL:
        return {side: list(sentences) for side, sentences in NORMAL_PAIR.items()}
    return {
        "positive": [words, f"there is {words}", f"findings of {words}"],
        "negative": [f"no {words}", f"there is no {words}", f"no findings of {words}"],
    }


def of_template(name: str, label: str) -> Pair:
    """A published system's pair for a label, one of TEMPLATES; for NORMAL labels those of `of_label`."""
    words = _words(label)
    if words.lower() in NORMAL:
        return of_label(label)
    positive, negative = (template.format(words) for template in TEMPLATES[name])
    return {"positive": [positive], "negative": [negative]}


def _words(label: str) -> str:
    return " ".join(label.replace("_", " ").split())
