"""Proofs: what holds of a component in every cycle, whatever its surroundings do. docs/explanation/proofs.md says how to read them."""

from . import array, feeder, fetch, loader, output_writer, queue, read_dma, registers, requantizer

CLAIMS = (queue.CLAIM, read_dma.CLAIM, output_writer.CLAIM, registers.CLAIM, fetch.CLAIM, loader.CLAIM, array.CLAIM, feeder.CLAIM,
          *requantizer.CLAIMS)
