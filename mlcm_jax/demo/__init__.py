"""`mlcm demo`: one HTML file that finds faces in thermal images, in any browser and without a network.

    page.py        the command: puts the parts together
    runtime.py     ONNX Runtime Web, from npm or a file
    constants.py   the numbers of the package that the page needs, so that they are written in one place only
    samples.py     rendered images to try

The page itself, in the order in which its scripts are put together (`page.SCRIPTS`). Most repeat a Python module,
which explains the rules:

    numbers.js     percentiles and rounding as numpy's
    holes.js       holes.py
    units.js       units.py, polarity.py
    jpeg.js        vendors.py; orientation
    png.js         PNG of all depths
    flir.js        flir.py
    tables.js      csv_images.py
    images.js      images.py, data/image_file.py
    crops.js       data/gain.py, data/augment.py
    networks.js    detection.py, inference/detector.py, predictor.py, search.py
    regions.js     inference/regions.py
    view.js        overlays and tables
    page.js        files, settings, JSON; page.html and page.css are its frame
"""
