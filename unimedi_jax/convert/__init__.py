"""In and out: pretrained weights, PyTorch exports, embeddings of any image, volume or report."""
