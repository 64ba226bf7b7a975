"""Analysis of models and results. Import functions from the modules of this package.

| module | contents |
|---|---|
| `parameters` | parameter counts by component |
| `attention_maps` | attention maps, attention rollout and occlusion maps of vision encoders |
| `word_heatmaps` | attention of each word of a caption to the image, for captioners with a Q-Former |
| `token_similarity` | cosine similarities of query tokens and vision tokens |
| `projection` | PCA and t-SNE of embeddings |
| `plots`, `pair_plots`, `caption_plots` | figures of retrieval, of paired images and of captions (need `vlmkit[viz]`) |
"""
