"""Sentences that assert or deny each finding, for zero-shot classification."""

import re


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with its full stop."""
    return re.split(r"(?<=\.) ", text)


ASSERTED_AND_DENIED = {
    "en": {
        "nodule": (
            "There is a nodule in the right lung. There is a nodule in the left lung. Solid pulmonary nodule "
            "measuring 18 mm. Pulmonary nodule.",
            "There is no nodule. No pulmonary nodule. No mass or nodule is seen. No evidence of nodule.",
        ),
        "consolidation": (
            "There is airspace consolidation in the right lung. There is airspace consolidation in the left lung. "
            "Airspace opacification with air bronchograms. Consolidation, likely pneumonia.",
            "There is no consolidation. No focal consolidation. No airspace opacity. The lungs are free of "
            "consolidation.",
        ),
        "pleural effusion": (
            "There is a right pleural effusion. There is a left pleural effusion. Moderate pleural effusion. Pleural "
            "fluid is present.",
            "There is no pleural effusion. No pleural fluid. No evidence of pleural effusion. The pleural spaces "
            "contain no effusion.",
        ),
        "cardiomegaly": (
            "The heart is enlarged. Cardiomegaly. Enlarged cardiac silhouette. Cardiomegaly with a high "
            "cardiothoracic ratio.",
            "The heart is normal in size. No cardiomegaly. Heart size is within normal limits. No evidence of "
            "cardiac enlargement.",
        ),
        "pneumothorax": (
            "There is a right pneumothorax. There is a left pneumothorax. Moderate pneumothorax. Pneumothorax with a "
            "visible pleural line.",
            "There is no pneumothorax. No pneumothorax. No evidence of pneumothorax. Both lungs are expanded without "
            "pneumothorax.",
        ),
    },
    "es": {
        "nodule": (
            "Existe un nódulo en el pulmón derecho. Existe un nódulo en el pulmón izquierdo. Nódulo pulmonar sólido "
            "de 18 mm. Nódulo pulmonar.",
            "No hay nódulo. Sin nódulo pulmonar. No se observa masa ni nódulo.",
        ),
        "consolidation": (
            "Hay consolidación en el pulmón derecho. Hay consolidación en el pulmón izquierdo. Opacidad alveolar con "
            "broncograma aéreo. Consolidación, probable neumonía.",
            "No hay consolidación. Sin consolidación focal. Sin opacidad alveolar.",
        ),
        "pleural effusion": (
            "Existe un derrame pleural derecho. Existe un derrame pleural izquierdo. Derrame pleural moderado. "
            "Líquido pleural presente.",
            "No hay derrame pleural. Sin líquido pleural. Espacios pleurales sin derrame.",
        ),
        "cardiomegaly": (
            "El corazón está aumentado de tamaño. Cardiomegalia. Silueta cardíaca aumentada.",
            "El corazón es de tamaño normal. Sin cardiomegalia. Tamaño cardíaco normal.",
        ),
        "pneumothorax": (
            "Hay un neumotórax derecho. Hay un neumotórax izquierdo. Neumotórax moderado. Neumotórax con línea "
            "pleural visible.",
            "No hay neumotórax. Sin neumotórax. Ambos pulmones expandidos sin neumotórax.",
        ),
    },
}
PROMPTS: dict[str, dict[str, dict[str, list[str]]]] = {
    language: {
        label: {"positive": sentences(asserted), "negative": sentences(denied)}
        for label, (asserted, denied) in pairs.items()
    }
    for language, pairs in ASSERTED_AND_DENIED.items()
}
