"""Train codes in a plain PyTorch loop with your own network, then index a gallery, search it and compute mAP.

Run: python examples/plain_loop.py [--quick]
"""

import argparse

import torch
from torch import nn

import orthohash_triton as oht
from orthohash_triton.data import digits

BITS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two epochs instead of ten")
    epochs = 2 if parser.parse_args().quick else 10
    torch.manual_seed(0)

    # Any images and class ids can be used; these are 8 x 8 digits, uint8 [N, 8, 8].
    train, gallery, query = digits.load_splits()
    images, labels = train.inputs.float() / 255, train.labels

    # The network has any backbone and a hash layer (Linear without bias, batch norm); each class has a fixed +-1 code.
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU())
    head = oht.nn.HashHead(256, BITS)
    criterion = oht.nn.OrthoHashLoss(oht.make_codebook(num_classes=10, bits=BITS))
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], lr=3e-3)

    for epoch in range(epochs):
        backbone.train(), head.train()
        for rows in torch.randperm(len(images)).split(64)[:-1]:
            # The loss computes batch norm, cosines with all codes, margin and softmax in one pass.
            loss = criterion(head.latent(backbone(images[rows])), labels[rows], head.batch_norm)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}")

    # The codes are uint8 [N, bits / 8].
    backbone.eval(), head.eval()
    with torch.no_grad():
        gallery_codes, query_codes = (head.encode(backbone(part.inputs.float() / 255)) for part in (gallery, query))

    index = oht.HammingIndex(BITS)
    index.add(gallery_codes)
    distances, ids = index.search(query_codes, k=5)
    print(f"query 0 is a {query.labels[0]}; nearest: {gallery.labels[ids[0]].tolist()} at distances {distances[0].tolist()}")
    print(f"mAP {oht.metrics.mean_average_precision(query_codes, gallery_codes, query.labels, gallery.labels):.4f}")


if __name__ == "__main__":
    main()
