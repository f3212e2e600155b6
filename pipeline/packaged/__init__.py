"""Small public pretrained parts out of packages, in the layouts that recipes name"""
