"""Sentences that assert or deny each finding, for zero-shot classification."""

PROMPTS: dict[str, dict[str, dict[str, list[str]]]] = {
    "en": {
        "nodule": {
            "positive": [
                "There is a nodule in the right lung.",
                "There is a nodule in the left lung.",
                "Solid pulmonary nodule measuring 18 mm.",
                "Pulmonary nodule.",
            ],
            "negative": [
                "There is no nodule.",
                "No pulmonary nodule.",
                "No mass or nodule is seen.",
                "No evidence of nodule.",
            ],
        },
        "consolidation": {
            "positive": [
                "There is airspace consolidation in the right lung.",
                "There is airspace consolidation in the left lung.",
                "Airspace opacification with air bronchograms.",
                "Consolidation, likely pneumonia.",
            ],
            "negative": [
                "There is no consolidation.",
                "No focal consolidation.",
                "No airspace opacity.",
                "The lungs are free of consolidation.",
            ],
        },
        "pleural effusion": {
            "positive": [
                "There is a right pleural effusion.",
                "There is a left pleural effusion.",
                "Moderate pleural effusion.",
                "Pleural fluid is present.",
            ],
            "negative": [
                "There is no pleural effusion.",
                "No pleural fluid.",
                "No evidence of pleural effusion.",
                "The pleural spaces contain no effusion.",
            ],
        },
        "cardiomegaly": {
            "positive": [
                "The heart is enlarged.",
                "Cardiomegaly.",
                "Enlarged cardiac silhouette.",
                "Cardiomegaly with a high cardiothoracic ratio.",
            ],
            "negative": [
                "The heart is normal in size.",
                "No cardiomegaly.",
                "Heart size is within normal limits.",
                "No evidence of cardiac enlargement.",
            ],
        },
        "pneumothorax": {
            "positive": [
                "There is a right pneumothorax.",
                "There is a left pneumothorax.",
                "Moderate pneumothorax.",
                "Pneumothorax with a visible pleural line.",
            ],
            "negative": [
                "There is no pneumothorax.",
                "No pneumothorax.",
                "No evidence of pneumothorax.",
                "Both lungs are expanded without pneumothorax.",
            ],
        },
    },
    "es": {
        "nodule": {
            "positive": [
                "Existe un nódulo en el pulmón derecho.",
                "Existe un nódulo en el pulmón izquierdo.",
                "Nódulo pulmonar sólido de 18 mm.",
                "Nódulo pulmonar.",
            ],
            "negative": ["No hay nódulo.", "Sin nódulo pulmonar.", "No se observa masa ni nódulo."],
        },
        "consolidation": {
            "positive": [
                "Hay consolidación en el pulmón derecho.",
                "Hay consolidación en el pulmón izquierdo.",
                "Opacidad alveolar con broncograma aéreo.",
                "Consolidación, probable neumonía.",
            ],
            "negative": ["No hay consolidación.", "Sin consolidación focal.", "Sin opacidad alveolar."],
        },
        "pleural effusion": {
            "positive": [
                "Existe un derrame pleural derecho.",
                "Existe un derrame pleural izquierdo.",
                "Derrame pleural moderado.",
                "Líquido pleural presente.",
            ],
            "negative": ["No hay derrame pleural.", "Sin líquido pleural.", "Espacios pleurales sin derrame."],
        },
        "cardiomegaly": {
            "positive": ["El corazón está aumentado de tamaño.", "Cardiomegalia.", "Silueta cardíaca aumentada."],
            "negative": ["El corazón es de tamaño normal.", "Sin cardiomegalia.", "Tamaño cardíaco normal."],
        },
        "pneumothorax": {
            "positive": [
                "Hay un neumotórax derecho.",
                "Hay un neumotórax izquierdo.",
                "Neumotórax moderado.",
                "Neumotórax con línea pleural visible.",
            ],
            "negative": ["No hay neumotórax.", "Sin neumotórax.", "Ambos pulmones expandidos sin neumotórax."],
        },
    },
}
