"""Trainers, each run as a process of its own on one job folder: ``python -m ftpipe.training JOBDIR``.

``jobfolder`` is the contract with the server, ``plan`` resolves what was asked into numbers, ``batches`` decides what
is trained in which order, ``losses`` computes, ``lora`` carries the model, ``loop`` takes the steps, ``state`` makes
them survive a kill.
"""
