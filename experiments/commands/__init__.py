"""The commands of experiments.main, one short file each: run(request).

May import experiments.build and the layers below it.
"""
