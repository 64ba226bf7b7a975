"""Writes `coco_captions.json`, which `tests/metrics/test_captioning.py` reads.

It holds the first 300 images of a file of COCO captions, one human caption of each as the prediction and the others as
references, with what pycocoevalcap 1.2 (Java 17) makes of them: the words of its tokenizer, and its scores. The
captions are from the COCO data set (Lin et al., "Microsoft COCO: Common Objects in Context", https://cocodataset.org),
Creative Commons Attribution 4.0.

    python tests/golden/make_coco_captions.py captions.json    # {"images": {id: {"prediction", "references"}}}
"""

import json
import sys
from pathlib import Path

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

NUM_IMAGES = 300

images = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["images"]
images = dict(list(images.items())[:NUM_IMAGES])
tokenizer = PTBTokenizer()
predicted = tokenizer.tokenize({name: [{"caption": image["prediction"]}] for name, image in images.items()})
wanted = tokenizer.tokenize(
    {name: [{"caption": caption} for caption in image["references"]] for name, image in images.items()}
)
scores = {f"bleu_{n}": score for n, score in enumerate(Bleu(4).compute_score(wanted, predicted, verbose=0)[0], start=1)}
for name, scorer in (("rouge_l", Rouge()), ("cider", Cider()), ("meteor", Meteor())):
    scores[name] = float(scorer.compute_score(wanted, predicted)[0])
golden = {
    "source": "COCO captions, https://cocodataset.org, Creative Commons Attribution 4.0",
    "scores": scores,
    "predictions": [image["prediction"] for image in images.values()],
    "references": [image["references"] for image in images.values()],
    "tokenized_predictions": [predicted[name][0] for name in images],
    "tokenized_references": [wanted[name] for name in images],
}
(Path(__file__).parent / "coco_captions.json").write_text(json.dumps(golden, indent=0) + "\n", encoding="utf-8")
