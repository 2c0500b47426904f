"""Paired RGB and thermal images of rendered faces, with landmarks that are exact by construction.

`generate.example(seed, index, size=…)` makes one pair with a hand-made head, which needs no files. With
`heads=scan_head.load("ICT-FaceKit")`, the head comes from a model made of scans, whose repository the user clones. The
files, in the order in which a pair is made:

    generate.py      the pipeline: draws the random streams, calls scene, raster, rgb, thermal and sensor in this order
    scene.py         seed -> Subject (a person) and Scene (pose, expression, camera, lights, accessories)

    raster.py        Subject, Scene -> GBuffer (what every pixel shows) and Truth (landmarks, visibility), by means of
      anatomy.py       the canonical head as curves: profile, lids, lips, brows, hairline, places of the landmarks
      template.py      these curves as a mesh: Template
      blendshapes.py   identity and expression -> moved vertices of that mesh
      head.py          the moved mesh posed before a pinhole camera, and its 68 landmarks: Head, Camera
      accessories.py   spectacles, long hair, the peak of a cap, a mask, a hand as further triangles: Piece
      surface.py       what is drawn of a head, and how the hand-made one is painted: Surface, Painted
      scan_head.py     scan-based heads, posed: ScanHeads, which makes a Head and its Surface, by means of
        scan_model.py    reads the meshes of ICT-FaceKit: ScanModel
        scan_warp.py     template coordinates for the scans
        scan_rig.py      what is computed once from the meshes: Rig
        scan_scene.py    identity, expressions and poses of scan-based heads
        scan_paint.py    their materials
      zbuffer.py       triangles -> the nearest one at every pixel: Fragments
      arrays.py        long arrays read fast; most files use it
      paint.py         the borders of hair, lids, brows, beard and clothes on the head
      gbuffer.py       the types passed on: Part, GBuffer, Truth

    rgb.py           GBuffer -> uint8 RGB image, by means of
      albedo.py        linear RGB albedo of every material
      backdrop.py      the background in visible light
      noise.py         seeded noise textures; paint.py reads them too

    thermal.py       GBuffer -> apparent temperature of every pixel in °C, by means of
      skin_map.py      warm and cool regions of the skin, in kelvin
      surroundings.py  climate, thermal background, what spectacle lenses mirror

    scan_thermal.py  the same for scan-based heads
      scan_surroundings.py  walls and seats behind them, and their spectacle lenses

    sensor.py        °C before the lens -> °C as the detector measures them, and 8-bit gray levels

    crowd.py         scenes with any number of people, to train a detector, by means of
      things.py        warm and hot things that are no faces

    workers.py       many pairs or scenes, rendered by several processes; used by the dataset builders

Units and spaces:

- Lengths are in *head units*: 1 is the distance of the outer eye corners of the canonical head.
- *Template coordinates* (x, y, z) name a place on the canonical head, whatever the identity, expression and pose: the
  origin lies between the eyes, x points to the right of a frontal image, y down, z towards the camera, and the outer
  eye corners lie at x = ±0.5. Materials, temperatures and landmarks are functions of them.
- *Head space* has the same axes and holds the head with its identity and expression, before any pose.
- *Camera space* has the same axes after the pose; the camera is at (0, 0, distance) and looks along -z.
- `u` is a position in the image from 0 to 1, and pixels are u * side - 0.5, so that their centres are integers.
- Temperatures are in °C, differences of temperature in kelvin (K); gray levels are 0 to 255, hot = bright.
- Colours are linear RGB until `rgb.develop`.
"""
