"""Architectures as pure functions. `catalog["gpt"]` is a `Model(config_class, init, forward, new_cache, axes)`."""

from pikojax.models.catalog import catalog  # cheap: JAX loads with the first model that is looked up

__all__ = ["catalog"]
