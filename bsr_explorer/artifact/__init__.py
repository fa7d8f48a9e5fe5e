"""What is left of a training: weights under timm's names, an ONNX file, a model card."""
