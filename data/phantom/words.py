"""The sentences of the phantom's reports, the same structure in English and in Spanish.

Slots: {side} as the noun needs it, {lobe}, {zone}, {size}, {mm}, {cm}, {share}, {ratio}, {depth}.
Lists under "xray" and "ct" hold what fits only that examination, "any" what fits both.
"""

from typing import Any

ENGLISH: dict[str, Any] = {
    "headings": [("FINDINGS:", "IMPRESSION:"), ("Findings:", "Impression:"), ("", "Conclusion:")],
    "side": {"right": "right", "left": "left"},
    "level": {"upper": "upper", "middle": "middle", "lower": "lower"},
    "size": {
        "small": ["small", "minor"],
        "moderate": ["moderate", "moderately sized"],
        "large": ["large", "extensive"],
    },
    "technique": {
        "xray": ["PA chest radiograph.", "Single frontal view of the chest, upright.", "Frontal chest film."],
        "ct": [
            "Axial CT of the chest without contrast.",
            "Unenhanced chest CT, supine.",
            "CT of the thorax, axial sections.",
        ],
    },
    "present": {
        "nodule": {
            "any": [
                "There is a {mm} mm nodule in the {side} lung.",
                "A {cm} cm {rim} nodule lies in the {side} {level}.",
                "{Rim} pulmonary nodule in the {side} {level} measuring {mm} mm.",
            ],
            "xray": ["Rounded opacity of {mm} mm projected over the {side} {level}."],
            "ct": ["Solitary {rim} nodule, {side} {level}, maximum diameter {mm} mm."],
        },
        "nodules": {
            "any": [
                "Two nodules in the {side} lung, the larger {mm} mm.",
                "There are two {rim} pulmonary nodules on the {side}, the largest measuring {cm} cm.",
            ]
        },
        "consolidation": {
            "any": [
                "Consolidation in the {side} {level}.",
                "There is airspace consolidation of the {side} {level} with air bronchograms.",
                "Patchy airspace opacification is seen in the {side} {level}.",
            ],
            "xray": ["Ill-defined airspace opacity projects over the {side} {level}."],
            "ct": [
                "Focal consolidation with open bronchi in the {side} {level}, about {cm} cm across.",
                "Dense parenchymal consolidation, {side} {level}, extending over {cm} cm.",
            ],
        },
        "pleural effusion": {
            "any": ["{Size} {side} pleural effusion.", "There is a {size} pleural effusion on the {side}."],
            "xray": [
                "Blunting of the {side} costophrenic angle by a {size} pleural effusion.",
                "{Size} {side} pleural fluid with a meniscus.",
            ],
            "ct": [
                "{Size} {side} pleural fluid layering posteriorly.",
                "Dependent {size} pleural effusion on the {side}, of water density.",
            ],
        },
        "cardiomegaly": {
            "any": [
                "The heart is enlarged.",
                "Cardiomegaly with a cardiothoracic ratio of {ratio}.",
                "There is cardiomegaly.",
                "Enlarged cardiac silhouette, cardiothoracic ratio {ratio}.",
            ]
        },
        "pneumothorax": {
            "any": [
                "{Size} {side} pneumothorax.",
                "There is a {size} pneumothorax on the {side}, about {share}% of the hemithorax.",
            ],
            "xray": [
                "{Size} {side} apical pneumothorax with a visible pleural line.",
                "Pleural line with no lung markings beyond it: {size} {side} pneumothorax.",
            ],
            "ct": [
                "{Size} {side} pneumothorax, free air lying anteriorly.",
                "Anterior pleural air on the {side} in keeping with a {size} pneumothorax.",
            ],
        },
    },
    "rim": {True: "calcified", False: "solid"},
    "levels": {"xray": "{level} zone", "ct": "{level} lobe", "middle zone": "mid zone"},
    "conclude": {
        "nodule": ["{side_c} pulmonary nodule.", "Nodule in the {side} lung, follow-up advised."],
        "nodules": ["{side_c} pulmonary nodules.", "Two nodules in the {side} lung."],
        "consolidation": ["{side_c} {level} consolidation, likely pneumonia.", "Consolidation of the {side} {level}."],
        "pleural effusion": ["{Size} {side} pleural effusion.", "{side_c}-sided pleural effusion."],
        "cardiomegaly": ["Cardiomegaly.", "Enlarged heart."],
        "pneumothorax": ["{Size} {side} pneumothorax.", "{side_c}-sided pneumothorax."],
    },
    "absent": {
        "nodule": ["nodule", "pulmonary nodule", "mass or nodule"],
        "consolidation": ["consolidation", "focal consolidation", "airspace opacity"],
        "pleural effusion": ["pleural effusion", "pleural fluid"],
        "cardiomegaly": ["cardiomegaly", "cardiac enlargement"],
        "pneumothorax": ["pneumothorax"],
    },
    "deny": ["No {list}.", "There is no {list}.", "No evidence of {list}."],
    "or": " or ",
    "fine": {
        "nodule": ["No pulmonary nodule is seen."],
        "consolidation": ["The lungs are free of consolidation.", "No focal airspace opacity."],
        "pleural effusion": ["The pleural spaces contain no effusion."],
        "cardiomegaly": ["The heart is normal in size.", "Heart size is within normal limits."],
        "pneumothorax": ["Both lungs are fully expanded without pneumothorax."],
    },
    "clean": [
        "No acute cardiopulmonary abnormality.",
        "Normal study of the chest.",
        "No active chest disease.",
        "Unremarkable examination.",
    ],
    "aside": {
        "any": [
            "Mild degenerative change of the thoracic spine.",
            "The trachea is central.",
            "The bones are intact.",
            "Mediastinal contours are unremarkable.",
            "No displaced rib fracture.",
            "The upper abdomen is unremarkable.",
            "Mild scoliosis of the spine.",
        ],
        "xray": [
            "The film is adequately inspired.",
            "The patient is slightly rotated.",
            "No prior study for comparison.",
            "The hila are of normal shape.",
        ],
        "ct": [
            "The central airways are patent.",
            "No enlarged mediastinal lymph node.",
            "Sections of about one centimetre.",
            "The thyroid is not included.",
        ],
    },
}

SPANISH: dict[str, Any] = {
    "headings": [("HALLAZGOS:", "IMPRESIÓN:"), ("Hallazgos:", "Impresión:"), ("", "Conclusión:")],
    "side": {"right": "derecho", "left": "izquierdo"},
    "level": {"upper": "superior", "middle": "medio", "lower": "inferior"},
    "size": {
        "small": ["pequeño", "leve"],
        "moderate": ["moderado", "de cuantía moderada"],
        "large": ["grande", "extenso"],
    },
    "technique": {
        "xray": [
            "Radiografía posteroanterior de tórax.",
            "Proyección frontal única de tórax en bipedestación.",
            "Placa frontal de tórax.",
        ],
        "ct": [
            "TC axial de tórax sin contraste.",
            "TC torácica simple en decúbito supino.",
            "Tomografía de tórax, cortes axiales.",
        ],
    },
    "present": {
        "nodule": {
            "any": [
                "Existe un nódulo de {mm} mm en el pulmón {side}.",
                "Nódulo {rim} de {cm} cm en el {level} {side}.",
                "Nódulo pulmonar {rim} en el {level} {side} que mide {mm} mm.",
            ],
            "xray": ["Opacidad redondeada de {mm} mm proyectada sobre el {level} {side}."],
            "ct": ["Nódulo {rim} único, {level} {side}, diámetro máximo {mm} mm."],
        },
        "nodules": {
            "any": [
                "Dos nódulos en el pulmón {side}, el mayor de {mm} mm.",
                "Hay dos nódulos pulmonares en el lado {side}, el mayor mide {cm} cm.",
            ]
        },
        "consolidation": {
            "any": [
                "Consolidación en el {level} {side}.",
                "Hay consolidación del espacio aéreo en el {level} {side} con broncograma aéreo.",
                "Se observa opacidad alveolar parcheada en el {level} {side}.",
            ],
            "xray": ["Opacidad alveolar mal definida proyectada sobre el {level} {side}."],
            "ct": [
                "Consolidación focal con bronquios permeables en el {level} {side}, de unos {cm} cm.",
                "Consolidación parenquimatosa densa, {level} {side}, en una extensión de {cm} cm.",
            ],
        },
        "pleural effusion": {
            "any": ["Derrame pleural {side} {size}.", "Existe un derrame pleural {size} en el lado {side}."],
            "xray": [
                "Ángulo costofrénico {side} borrado por un derrame pleural {size}.",
                "Líquido pleural {side} {size} con menisco.",
            ],
            "ct": [
                "Líquido pleural {side} {size} de disposición posterior.",
                "Derrame pleural {size} declive en el lado {side}, de densidad agua.",
            ],
        },
        "cardiomegaly": {
            "any": [
                "El corazón está aumentado de tamaño.",
                "Cardiomegalia con índice cardiotorácico de {ratio}.",
                "Hay cardiomegalia.",
                "Silueta cardíaca aumentada, índice cardiotorácico {ratio}.",
            ]
        },
        "pneumothorax": {
            "any": [
                "Neumotórax {side} {size}.",
                "Hay un neumotórax {size} en el lado {side}, cerca del {share}% del hemitórax.",
            ],
            "xray": [
                "Neumotórax apical {side} {size} con línea pleural visible.",
                "Línea pleural con ausencia distal de trama: neumotórax {side} {size}.",
            ],
            "ct": [
                "Neumotórax {side} {size}, con aire libre anterior.",
                "Aire pleural anterior en el lado {side}, compatible con neumotórax {size}.",
            ],
        },
    },
    "rim": {True: "calcificado", False: "sólido"},
    "levels": {"xray": "campo {level}", "ct": "lóbulo {level}", "middle zone": "campo medio"},
    "conclude": {
        "nodule": ["Nódulo pulmonar {side}.", "Nódulo en el pulmón {side}, conviene seguimiento."],
        "nodules": ["Nódulos pulmonares en el lado {side}.", "Dos nódulos en el pulmón {side}."],
        "consolidation": [
            "Consolidación en el {level} {side}, probable neumonía.",
            "Consolidación del {level} {side}.",
        ],
        "pleural effusion": ["Derrame pleural {side} {size}.", "Derrame pleural {side}."],
        "cardiomegaly": ["Cardiomegalia.", "Corazón agrandado."],
        "pneumothorax": ["Neumotórax {side} {size}.", "Neumotórax {side}."],
    },
    "absent": {
        "nodule": ["nódulo", "nódulo pulmonar", "masa ni nódulo"],
        "consolidation": ["consolidación", "consolidación focal", "opacidad alveolar"],
        "pleural effusion": ["derrame pleural", "líquido pleural"],
        "cardiomegaly": ["cardiomegalia", "aumento del tamaño cardíaco"],
        "pneumothorax": ["neumotórax"],
    },
    "deny": ["Sin {list}.", "No hay {list}.", "No se observa {list}."],
    "or": " ni ",
    "fine": {
        "nodule": ["No se aprecia nódulo pulmonar."],
        "consolidation": ["Pulmones sin consolidación.", "Sin opacidad alveolar focal."],
        "pleural effusion": ["Espacios pleurales sin derrame."],
        "cardiomegaly": ["El corazón es de tamaño normal.", "Tamaño cardíaco normal."],
        "pneumothorax": ["Ambos pulmones expandidos sin neumotórax."],
    },
    "clean": [
        "Sin alteración cardiopulmonar aguda.",
        "Estudio de tórax normal.",
        "Sin enfermedad torácica activa.",
        "Exploración sin alteraciones.",
    ],
    "aside": {
        "any": [
            "Leves cambios degenerativos de la columna dorsal.",
            "La tráquea es central.",
            "Estructuras óseas íntegras.",
            "Contornos mediastínicos sin alteraciones.",
            "Sin fractura costal desplazada.",
            "Abdomen superior sin alteraciones.",
            "Leve escoliosis de la columna.",
        ],
        "xray": [
            "Placa con buena inspiración.",
            "Paciente ligeramente rotado.",
            "Sin estudio previo para comparar.",
            "Hilios de forma normal.",
        ],
        "ct": [
            "Vía aérea central permeable.",
            "Sin adenopatía mediastínica.",
            "Cortes de alrededor de un centímetro.",
            "El tiroides no está incluido.",
        ],
    },
}

LANGUAGES = {"en": ENGLISH, "es": SPANISH}
