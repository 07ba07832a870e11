"""Classification of findings with a trained encoder: configs/probe.py:<built set>, the phantom without one.

Linear probe: logistic regression on frozen CLS features, to its optimum; C by validation AUROC. `config.tune=full`
trains the whole network. Labels that are uncertain (-1 in a manifest) or unknown are left out, label by label.
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.job = "probe"
    config.checkpoint = ""  # a run's workdir or an export
    config.network = "student"  # or "teacher"
    config.data = arg or "phantom"
    config.data_dir = "records"
    config.modality = ""  # "xray" or "ct"; all that the set has
    config.tune = "linear"  # or "full"
    config.shares = (0.01, 0.1, 1.0)  # of the training patients, stratified draws
    config.seeds = (0, 1, 2)  # of the draws, and of full fine-tuning
    config.untrained = True  # the same from an encoder that has learnt nothing, beside it
    config.ct_slices = False  # CTs with their chosen slices; False: the volume alone
    config.rows = 32  # a device, when embedding
    config.resamples = 1000  # of the bootstrap intervals
    # MGCA's recipe for its linear classifier, where the encoder learns ten times slower (our choice).
    config.full = ml_collections.ConfigDict(
        {"batch": 48, "epochs": 50, "patience": 10, "lr": 5e-4, "encoder_lr": 5e-5, "weight_decay": 1e-6}
    )
    return config
