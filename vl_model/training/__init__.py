"""The contrastive training of the site model: flags, loss, trainer."""
