"""Sentences of a report, and what training does to them: another order, a part of them, none about the technique.

All of it draws from the sample's own generator, so that a resumed run reads the same words.

A sentence only names the technique of the examination if it names one of TECHNIQUE and all its other words are of
NEUTRAL or numbers ("Frontal view of the chest, upright."), or if a verb of ACQUIRED says how it was done ("Axial images
were obtained from the apices to the adrenal glands.") and none of STATED what it shows or what it is compared with. A
section headed "Technique:" goes as a whole, up to the next heading: one with a colon, or a known one in capitals or
with Markdown's marks, since a cleaned report has no lines. "Chest CT shows a nodule." stays: it states a finding.
"""

import re

import numpy as np

from data.reports import sections

HEADING = re.compile(r"^\s*([^\W\d_][^\W\d_ ]*(?: [^\W\d_]+){0,3}):")
WORD = re.compile(r"[^\W\d_]+")
TECHNIQUE_HEADING = re.compile(r"technique|protocol|procedure|técnica|protocolo", re.IGNORECASE)
OF_THE_EXAMINATION = ("technique", "técnica", "tecnica", "procedure", "exam", "examination", "estudio")  # no ends
NEXT = [re.escape(name) for name in sections.SECTION_OF if name not in OF_THE_EXAMINATION]
NEXT_NAMED = "|".join(sorted(NEXT, key=len, reverse=True))
NEXT_HEADING = re.compile(
    rf"(?<!\w)(?:(?:#+\s*|\*+)(?i:{NEXT_NAMED})(?!\w)|(?i:{NEXT_NAMED})(?=\s*:)|(?:{NEXT_NAMED.upper()})(?!\w))"
)

TECHNIQUE = (
    "radiograph radiographs radiography xray ray rays film films view views projection projections ct cta hrct mdct "
    "tomography tomographic tomogram axial sections section reconstruction reconstructions reformats scan "
    "scans contrast unenhanced kvp mas dlp ctdi dose protocol portable technique "
    "radiografía radiografías radiológico radiológica proyección proyecciones placa placas tc tac tcar tomografía "
    "tomográfico tomográfica axiales cortes reconstrucciones contraste dosis protocolo portátil técnica"
)
NEUTRAL = (
    "a an the of in on at to from and or with without by for is was were are be as this x single two one about per "
    "pa ap lateral frontal posteroanterior anteroposterior upright erect supine sitting prone decubitus bedside chest "
    "thorax thoracic image images plain digital low high resolution dose thin slice slices thickness collimation "
    "interval centimetre centimetres millimetre millimetres centimeter centimeters millimeter millimeters cm mm ml mgy "
    "kv ma helical spiral multidetector computed coronal sagittal plane planes soft tissue lung bone window windows "
    "kernel algorithm enhanced intravenous iv oral material agent administration injection non no adequately adequate "
    "inspired inspiration expiration full patient slightly rotated rotation exposure quality study examination exam "
    "un una el la los las de del en con sin y o por para es fue al simple frontal posteroanterior anteroposterior "
    "lateral bipedestación decúbito supino prono tórax torácica torácico única único dos alrededor centímetro "
    "centímetros milímetro milímetros buena mala inspiración espiración paciente ligeramente rotado rotada alta baja "
    "resolución computarizada computada helicoidal multidetector multicorte coronal coronales sagital sagitales "
    "intravenoso intravenosa estudio exploración imágenes imagen digital"
)
ACQUIRED = (
    "performed obtained acquired administered injected reconstructed reformatted "
    "realizó realizado realizada realizaron obtuvo obtenido obtenida obtenidas obtuvieron administró administrado "
    "adquirido adquirida adquirieron"
)
STATED = (
    "prior previous previously compared comparison since ago dated change changed unchanged previo previa anterior "
    "comparación comparado comparada "
    "show shows showed showing demonstrate demonstrates demonstrated demonstrating reveal reveals revealed revealing "
    "there seen noted identified evidence consistent compatible suggests suggesting "
    "muestra muestran demuestra demuestran evidencia evidencian observa observan aprecia aprecian hay existe existen "
    "visualiza visualizan identifica identifican sugiere"
)
TERMS = frozenset(TECHNIQUE.split())
BESIDE = TERMS | frozenset(NEUTRAL.split())
DONE, SHOWN = frozenset(ACQUIRED.split()), frozenset(STATED.split())


def split(report: str) -> list[str]:
    """The sentences of a report, each with its punctuation; the dot of "12.1 cm" ends none."""
    return sections.SENTENCE.split(report.strip())


def shuffle(report: str, rng: np.random.Generator) -> str:
    """The report's sentences in another order (PRIOR, arXiv 2307.12577)."""
    sentences = split(report)
    return " ".join(sentences[i] for i in rng.permutation(len(sentences)))


def draw_part(report: str, share: float, rng: np.random.Generator) -> str:
    """The nearest number of sentences to `share` of them, at least one, in their order; all are equally likely."""
    sentences = split(report)
    number = max(1, int(share * len(sentences) + 0.5))
    chosen = rng.choice(len(sentences), number, replace=False)
    return " ".join(sentences[i] for i in sorted(chosen))


def halves(report: str, rng: np.random.Generator) -> tuple[str, str]:
    """The report's sentences dealt at random into two halves, each in its order; a single sentence is in both."""
    sentences = split(report)
    if len(sentences) == 1:
        return report, report
    first = np.zeros(len(sentences), bool)
    first[rng.choice(len(sentences), len(sentences) // 2, replace=False)] = True
    if rng.random() < 0.5:  # of an odd number, either may be the longer one
        first = ~first
    one, other = (" ".join(s for s, chosen in zip(sentences, part, strict=True) if chosen) for part in (first, ~first))
    return one, other


def without_technique(report: str) -> str:
    """The report without sentences that only name the examination; a report of nothing else stays as it is."""
    remaining, in_section = [], False
    for sentence in split(report):
        if heading := HEADING.match(sentence):
            in_section = TECHNIQUE_HEADING.fullmatch(heading[1].strip()) is not None
        if in_section and (following := NEXT_HEADING.search(sentence)):
            sentence, in_section = sentence[following.start() :], False
        if not in_section and not names_technique(sentence):
            remaining.append(sentence)
    return " ".join(remaining) or report


def names_technique(sentence: str) -> bool:
    """Whether a sentence, its heading aside, only names how the examination was done."""
    words = {word.lower() for word in WORD.findall(HEADING.sub("", sentence, count=1))}
    return bool(words & TERMS) and (words <= BESIDE or bool(words & DONE and not words & SHOWN))
