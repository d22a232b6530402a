                Device (TPM)
                {
                    Name (_HID, "MSFT0101" /* TPM 2.0 Security Device */)  // _HID: Hardware ID
                    Name (_UID, One)  // _UID: Unique ID
                    Name (_STA, 0x0F)  // _STA: Status
                    Name (_CRS, ResourceTemplate ()  // _CRS: Current Resource Settings
                    {
                        Memory32Fixed (ReadWrite,
                            0xFED40000,         // Address Base
                            0x00005000,         // Address Length
                            )
                    })
                    OperationRegion (PPIM, SystemMemory, 0xFED45100, 0x60)
                    Field (PPIM, ByteAcc, NoLock, Preserve)
                    {
                        PPIN,   8, 
                        PPIP,   32, 
                        PPRP,   32, 
                        PPRQ,   32, 
                        PPRM,   32, 
                        LPPR,   32, 
                        Offset (0x5A), 
                        MOVV,   8
                    }

                    Name (PPK2, Package (0x02)
                    {
                        Zero, 
                        Zero
                    })
                    Name (PPK3, Package (0x03)
                    {
                        Zero, 
                        Zero, 
                        Zero
                    })
                    Name (PPK5, Package (0x03)
                    {
                        Zero, 
                        Zero, 
                        Zero
                    })
                    Method (TPFN, 1, Serialized)
                    {
                        If ((Arg0 >= 0x0100))
                        {
                            Return (Zero)
                        }

                        OperationRegion (PPIO, SystemMemory, (0xFED45000 + Arg0), One)
                        Field (PPIO, ByteAcc, NoLock, Preserve)
                        {
                            PPIF,   8
                        }

                        Return (PPIF) /* \_SB_.PCI0.ISA_.TPM_.TPFN.PPIF */
                    }

                    Method (TPRQ, 2, Serialized)
                    {
                        Local0 = TPFN (Arg0)
                        If ((Local0 == Zero))
                        {
                            Return (One)
                        }

                        If ((Local0 == 0x02))
                        {
                            Return (0x03)
                        }

                        PPRQ = Arg0
                        PPRM = Arg1
                        Return (Zero)
                    }

                    Method (_DSM, 4, Serialized)  // _DSM: Device-Specific Method
                    {
                        If ((Arg0 == ToUUID ("3dddfaa6-361b-4eb4-a424-8d10089d1653") /* Physical Presence Interface */))
                        {
                            If ((Arg2 == Zero))
                            {
                                Return (Buffer (0x02)
                                {
                                     0xFF, 0x01                                       // ..
                                })
                            }

                            If ((Arg2 == One))
                            {
                                Return ("1.3")
                            }

                            If ((Arg2 == 0x02))
                            {
                                Local0 = TPRQ (DerefOf (Arg3 [Zero]), Zero)
                                If ((Local0 == 0x03))
                                {
                                    Return (0x02)
                                }

                                Return (Local0)
                            }

                            If ((Arg2 == 0x03))
                            {
                                If ((Arg1 == One))
                                {
                                    PPK2 [One] = PPRQ /* \_SB_.PCI0.ISA_.TPM_.PPRQ */
                                    Return (PPK2) /* \_SB_.PCI0.ISA_.TPM_.PPK2 */
                                }

                                PPK3 [One] = PPRQ /* \_SB_.PCI0.ISA_.TPM_.PPRQ */
                                PPK3 [0x02] = PPRM /* \_SB_.PCI0.ISA_.TPM_.PPRM */
                                Return (PPK3) /* \_SB_.PCI0.ISA_.TPM_.PPK3 */
                            }

                            If ((Arg2 == 0x04))
                            {
                                Return (0x02)
                            }

                            If ((Arg2 == 0x05))
                            {
                                PPK5 [One] = LPPR /* \_SB_.PCI0.ISA_.TPM_.LPPR */
                                PPK5 [0x02] = PPRP /* \_SB_.PCI0.ISA_.TPM_.PPRP */
                                Return (PPK5) /* \_SB_.PCI0.ISA_.TPM_.PPK5 */
                            }

                            If ((Arg2 == 0x06))
                            {
                                Return (0x03)
                            }

                            If ((Arg2 == 0x07))
                            {
                                If ((Arg1 < 0x02))
                                {
                                    Return (TPRQ (DerefOf (Arg3 [Zero]), Zero))
                                }
                                Else
                                {
                                    Return (TPRQ (DerefOf (Arg3 [Zero]), DerefOf (Arg3 [One])))
                                }
                            }

                            If ((Arg2 == 0x08))
                            {
                                Return (TPFN (DerefOf (Arg3 [Zero])))
                            }
                        }

                        If ((Arg0 == ToUUID ("376054ed-cc13-4675-901c-4756d7f2d45d") /* Unknown UUID */))
                        {
                            If ((Arg2 == Zero))
                            {
                                Return (Buffer (One)
                                {
                                     0x03                                             // .
                                })
                            }

                            If ((Arg2 == One))
                            {
                                MOVV = DerefOf (Arg3 [Zero])
                                Return (Zero)
                            }
                        }

                        Return (Buffer (One)
                        {
                             0x00                                             // .
                        })
                    }
                }

[000h 0000   4]                    Signature : "TPM2"    [Trusted Platform Module hardware interface table]
[004h 0004   4]                 Table Length : 0000004C
[008h 0008   1]                     Revision : 04
[009h 0009   1]                     Checksum : 14
[00Ah 0010   6]                       Oem ID : "NYX   "
[010h 0016   8]                 Oem Table ID : "NYXPC   "
[018h 0024   4]                 Oem Revision : 00000001
[01Ch 0028   4]              Asl Compiler ID : "NYX "
[020h 0032   4]        Asl Compiler Revision : 00000001

[024h 0036   2]               Platform Class : 0000
[026h 0038   2]                     Reserved : 0000
[028h 0040   8]              Control Address : 0000000000000000
[030h 0048   4]                 Start Method : 06 [Memory Mapped I/O]

[034h 0052  12]            Method Parameters : 00 00 00 00 00 00 00 00 00 00 00 00
[040h 0064   4]           Minimum Log Length : 00010000
[044h 0068   8]                  Log Address : 0000000000000000


