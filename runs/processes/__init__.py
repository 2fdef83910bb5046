"""The processes of a training: how they are started, meet, exchange, and end without one another."""
