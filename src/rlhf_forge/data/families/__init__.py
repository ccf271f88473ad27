"""The formats of the world, by family; `rlhf_forge.data.formats` lists them all."""
