"""Fine-tuning with LoRA on this machine or a Ray cluster: ``python -m ftpipe.training JOBDIR``.

A trainer is a process that works on one job directory (``job_directory``). ``run`` goes from the spec to the result:
it reads the rows (``batching``, ``dpo``), resolves the ``hyperparameters``, adds an adapter (``lora``) and starts the
``trainer``, whose steps compute a ``loss`` on a ``causal_lm`` and whose state survives a kill (``checkpoint``).
``launcher`` and ``ray_cluster`` start several processes for a job, ``parallel`` connects
them with DDP or FSDP. ``row_losses`` evaluates a dataset row by row.
"""
