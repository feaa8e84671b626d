"""Going out: what our own software publishes, on its way to the peers that subscribed."""
