"""The help of `detseg train`, printed before torch and lightning are imported, which takes seconds."""

TRAIN = """detseg train --config NAME.yaml [--data NAME.yaml|CLASS|FOLDER] [--KEY VALUE ...]

  detseg train --config faster_rcnn_shapes.yaml
  detseg train --config faster_rcnn_r50.yaml --data.root my/coco --trainer.max_epochs 3 --task.lr 0.01
  detseg train --config faster_rcnn_r50.yaml --resume last"""

TRAIN_HELP = f"""usage: {TRAIN}

Train a detector, a segmenter or a classifier.

  --config FILE            a configuration: a path, or the name of one in configs/; of several, the later ones win
  --data FILE|CLASS|FOLDER other data than the configuration's: a file of settings, a class such as COCO, or a folder,
                           whose format is detected
  --data.KEY VALUE         one setting of the data, such as root, batch_size, num_workers
  --model.KEY VALUE        one setting of the model, such as backbone.channels
  --task.KEY VALUE         one setting of its training, such as lr, schedule.name, optimizer.name
  --trainer.KEY VALUE      one argument of Lightning's Trainer, such as max_epochs, devices, accelerator, precision
  --trainer FILE           some of them, such as trainer/gpu.yaml
  --name NAME              the folder of the run, runs/NAME; by default the name of the configuration
  --resume FILE|last       a checkpoint to continue from
  --seed_everything N      seed of all random numbers (default: 0)
  --print_config           print the settings, and do not train

With --config, --help lists every setting with its type and default."""
