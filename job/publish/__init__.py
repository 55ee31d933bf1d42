"""Publishing: the model card, the checks before publication, and the upload to the Hub."""
