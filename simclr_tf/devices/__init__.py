"""What a process runs on: processors and their instructions, memory, compute types, replicas, and
the state that TensorFlow keeps for the whole process.
`quiet`, `processor`, `memory` and `workers` import no TensorFlow: commands use them before it.
"""
