"""The export job: PyTorch, timm and ONNX files of a run, with proof that they agree."""
