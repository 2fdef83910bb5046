"""The site model (towers, adapters and pooling), its files, its export and its model card."""
