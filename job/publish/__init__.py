"""Publishing: the model card, the check of what will be published, and the upload."""
