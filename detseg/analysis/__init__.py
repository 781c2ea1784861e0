"""Analysis of trained networks: linear probing, visualisation, heat maps, charts."""
